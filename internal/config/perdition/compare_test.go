package perdition

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"mailferry/backend"
	"mailferry/backend/directory"
	"mailferry/internal/config"
	"mailferry/internal/mailtest"
)

// route is where a user went, and as whom. The zero route: nowhere.
type route struct{ host, port, user string }

// farm is a set of IMAP servers that note who logs in where. Passwords tell
// the logins apart.
type farm struct {
	hosts []string
	ports []string
	mu    sync.Mutex
	seen  map[string]route
}

func startFarm(t *testing.T) *farm {
	f := &farm{hosts: []string{"127.0.0.11", "127.0.0.12", "127.0.0.13", "127.0.0.14"}, seen: map[string]route{}}
	for range 3 {
		f.ports = append(f.ports, strconv.Itoa(mailtest.FreePort(t)))
	}
	for _, h := range f.hosts {
		for _, p := range f.ports {
			l, err := net.Listen("tcp", net.JoinHostPort(h, p))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					go f.serve(c, route{host: h, port: p})
				}
			}()
		}
	}
	return f
}

func (f *farm) serve(c net.Conn, here route) {
	defer c.Close()
	r := bufio.NewReader(c)
	fmt.Fprint(c, "* OK ready\r\n")
	for {
		words, err := command(c, r)
		if err != nil || len(words) < 2 {
			return
		}
		switch strings.ToUpper(words[1]) {
		case "CAPABILITY":
			fmt.Fprint(c, "* CAPABILITY IMAP4 IMAP4REV1\r\n")
		case "LOGIN":
			f.mu.Lock()
			here.user = words[2]
			f.seen[words[3]] = here
			f.mu.Unlock()
		}
		fmt.Fprintf(c, "%s OK done\r\n", words[0])
	}
}

// command reads one command; strings are quoted or literal.
func command(w io.Writer, r *bufio.Reader) (words []string, err error) {
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return nil, err
		}
		line = strings.TrimRight(line, "\r\n")
		literal := -1
		if i := strings.LastIndexByte(line, '{'); i >= 0 && strings.HasSuffix(line, "}") {
			if n, err := strconv.Atoi(strings.Trim(line[i:], "{+}")); err == nil {
				literal, line = n, line[:i]
			}
		}
		words = append(words, unquote(line)...)
		if literal < 0 {
			return words, nil
		}
		fmt.Fprint(w, "+ go on\r\n")
		b := make([]byte, literal)
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, err
		}
		words = append(words, string(b))
	}
}

func unquote(line string) (words []string) {
	var b strings.Builder
	quoted, any := false, false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '"':
			quoted, any = !quoted, true
		case quoted && c == '\\':
			i++
			b.WriteByte(line[i])
		case c == ' ' && !quoted:
			if any {
				words = append(words, b.String())
			}
			any = false
			b.Reset()
		default:
			any = true
			b.WriteByte(c)
		}
	}
	if any {
		words = append(words, b.String())
	}
	return words
}

var logins int

// through logs in to Perdition and returns where the farm saw the user.
func (f *farm) through(t *testing.T, addr, user string) route {
	t.Helper()
	logins++
	password := fmt.Sprintf("pw%d", logins)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := bufio.NewReader(c)
	if _, err := r.ReadString('\n'); err != nil {
		t.Fatalf("greeting of perdition: %v", err)
	}
	fmt.Fprintf(c, "a LOGIN \"%s\" %s\r\n", strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(user), password)
	for {
		line, err := r.ReadString('\n')
		if err != nil || strings.HasPrefix(line, "a ") {
			break
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen[password]
}

// ours resolves names with the imported configuration, as the proxy does.
type ours struct {
	chain  *directory.Chain
	stores *directory.Stores
}

func open(t *testing.T, c *config.Config) *ours {
	t.Helper()
	o := &ours{}
	var dirs []backend.Directory
	for i := range c.Directories {
		dirs = append(dirs, openDirectory(t, &c.Directories[i]))
	}
	var stores []*backend.Store
	for _, s := range c.Stores {
		st := &backend.Store{Name: s.Name, Type: s.Type, Address: s.Address, TLS: s.TLS, Ports: map[backend.Protocol]int{}}
		for p, n := range s.Ports {
			st.Ports[backend.Protocol(p)] = n
		}
		stores = append(stores, st)
	}
	var err error
	if o.stores, err = directory.NewStores(stores); err != nil {
		t.Fatal(err)
	}
	if o.chain, err = directory.NewChain(directory.ChainOptions{Directories: dirs}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.chain.Close() })
	return o
}

func openDirectory(t *testing.T, c *config.Directory) backend.Directory {
	t.Helper()
	var d backend.Directory
	var err error
	delimiter := ""
	if c.Names != nil {
		delimiter = c.Names.Delimiter
	}
	switch c.Type {
	case config.DirectoryFile:
		d, err = directory.NewFile(directory.FileOptions{Name: c.Name, Path: c.Path, Popmap: c.Format == config.FormatPopmap, Delimiter: delimiter, StoreChecks: true})
	case config.DirectoryRegex:
		o := directory.RegexOptions{Name: c.Name, DefaultStore: c.Store}
		for _, r := range c.Rules {
			o.Rules = append(o.Rules, directory.RegexRule(r))
		}
		d, err = directory.NewRegex(o)
	case config.DirectoryLDAP:
		var l *directory.LDAP
		l, err = directory.NewLDAP(directory.LDAPOptions{Name: c.Name, Servers: c.Servers, BindDN: c.BindDN, BindPassword: c.BindPassword, Base: c.Base, Filter: c.Filter,
			DefaultStore: c.Store, Attributes: directory.LDAPAttributes{User: c.Attributes.User, Store: c.Attributes.Store}})
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		d = l
	}
	if err != nil {
		t.Fatal(err)
	}
	if n := c.Names; n != nil {
		d = directory.NewNames(d, directory.NamesOptions{Delimiter: n.Delimiter, Key: n.Key, Lookup: directory.NameForm(n.Lookup),
			Login: directory.NameForm(n.Login), AsGiven: n.From == config.NamesGiven})
	}
	return d
}

// route is where a user goes by the imported configuration.
func (o *ours) route(t *testing.T, user string) (route, error) {
	t.Helper()
	e, err := o.chain.Lookup(t.Context(), user)
	if err != nil {
		return route{}, err
	}
	st, host, err := o.stores.Find(e.Store)
	if err != nil {
		return route{}, err
	}
	return route{host, strconv.Itoa(st.Port(backend.IMAP)), e.User}, nil
}
