package perdition

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// ldapMap is an LDAP map as Perdition's options give it.
type ldapMap struct {
	servers  []string // URLs of ours
	base     string
	scope    string // base, one or sub
	filter   string // {user} stands for the key
	user     string // attributes by position; empty: omitted
	host     string
	port     string
	bindDN   string
	password string
	problems []string // what cannot be said in our words
}

// defaultLDAP is what the module searches without an option.
const defaultLDAP = "ldap://localhost/ou=mailbox,dc=nodomain?username,mailhost,port?one?(uid=%s)"

var padded = regexp.MustCompile(`%[0-9]+s`)

// parseLDAP reads [V:]URL. The key stands for itself in base and filter only:
// anywhere else it would choose the directory.
func parseLDAP(opt string) (*ldapMap, error) {
	if len(opt) > 0 && (len(opt) == 1 || opt[1] == ':') { // the version of the protocol
		opt = strings.TrimPrefix(opt[1:], ":")
	}
	if opt == "" {
		opt = defaultLDAP
	}
	opt = strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(opt, "<"), "URL:"), ">")
	scheme, rest, ok := strings.Cut(opt, "://")
	if scheme = strings.ToLower(scheme); !ok || scheme != "ldap" && scheme != "ldaps" && scheme != "ldapi" {
		return nil, fmt.Errorf("%s is no LDAP URL", hide(opt))
	}
	m := &ldapMap{scope: "base"}
	if padded.MatchString(rest) {
		m.problem("keys padded with spaces (%%Ns) are not made")
	}
	hosts, rest, _ := strings.Cut(rest, "/")
	if err := m.hosts(scheme, hosts); err != nil {
		return nil, err
	}
	return m, m.parts(strings.SplitN(rest, "?", 5))
}

func (m *ldapMap) problem(format string, args ...any) {
	m.problems = append(m.problems, fmt.Sprintf(format, args...))
}

// hosts reads one or more hosts; the port of the last is that of all.
func (m *ldapMap) hosts(scheme, hosts string) error {
	if strings.Contains(hosts, "%s") || padded.MatchString(hosts) {
		m.problem("the key must not choose the host of the directory")
		return nil
	}
	hosts, err := url.PathUnescape(hosts)
	if err != nil {
		return fmt.Errorf("hosts of the LDAP URL: %w", err)
	}
	if scheme == "ldapi" {
		m.problem("sockets of the machine (ldapi) are not used; name ldap://localhost or another server")
		return nil
	}
	port := ""
	if i := strings.LastIndexByte(hosts, ':'); i > strings.LastIndexByte(hosts, ']') {
		hosts, port = hosts[:i], hosts[i:]
	}
	list := strings.Fields(hosts)
	if len(list) == 0 {
		list = []string{"localhost"}
	}
	for _, h := range list {
		m.servers = append(m.servers, scheme+"://"+h+port)
	}
	return nil
}

func (m *ldapMap) parts(parts []string) error {
	for i, p := range parts {
		if i == 4 {
			return m.extensions(p)
		}
		// %s is put in before escapes are read, so it is no escape.
		text, err := url.PathUnescape(strings.ReplaceAll(padded.ReplaceAllString(p, "%s"), "%s", "%00"))
		if err != nil {
			return fmt.Errorf("LDAP URL, %q: %w", p, err)
		}
		text = strings.ReplaceAll(text, "\x00", "{user}")
		switch i {
		case 0:
			m.base = text
		case 1:
			m.attributes(strings.Split(text, ","))
		case 2:
			if text != "" {
				m.scope = strings.ToLower(text)
			}
		case 3:
			m.filter = text
		}
	}
	return nil
}

func (m *ldapMap) attributes(list []string) {
	for i, a := range list {
		if strings.Contains(a, "{user}") {
			m.problem("the key must not choose attributes")
			return
		}
		switch i {
		case 0:
			m.user = a
		case 1:
			m.host = a
		case 2:
			m.port = a
		}
	}
}

// extensions reads the credentials of the searcher.
func (m *ldapMap) extensions(text string) error {
	for e := range strings.SplitSeq(text, ",") {
		critical := strings.HasPrefix(e, "!")
		e, err := url.PathUnescape(strings.TrimPrefix(e, "!"))
		if err != nil {
			return fmt.Errorf("LDAP URL, extensions: %w", err)
		}
		name, value, _ := strings.Cut(e, "=")
		switch {
		case strings.Contains(value, "%s"):
			m.problem("the key must not choose who searches")
		case strings.EqualFold(name, "bindname"):
			m.bindDN = value
		case strings.EqualFold(name, "x-bindpw"):
			m.password = value
		case critical:
			m.problem("critical extension %s: Perdition gives up every lookup", name)
		}
	}
	return nil
}
