// Package imapsync reads command lines of imapsync, so that those who know it
// find their way: each option has a meaning here, or a reason why not.
// docs/imapsync.md is this package's table.
package imapsync

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"mailferry/backend"
	"mailferry/migrate"
	"mailferry/migrate/target"
)

// Side is one server of a command line, and the user there.
type Side struct {
	Host         string
	Port         int
	User         string
	Password     backend.Secret
	AuthUser     string // logs in for User; empty: User does
	ProxyAuth    bool   // by PROXYAUTH, not SASL
	TLS          backend.TLSMode
	Insecure     bool // the certificate is not checked
	SievePort    int  // of ManageSieve; 0: as usual, if anybody answers
	POP3Port     int  // 0: not asked
	ssl, tls     bool
	nossl, notls bool
}

// Job is what a command line orders.
type Job struct {
	From, To Side
	Filter   migrate.Filter
	Rules    target.Rules
	Dry      bool
	// SyncACLs and NoSyncACLs are what was said of access rights; neither: nothing.
	SyncACLs, NoSyncACLs bool
	// Ignored are options without a meaning here, in the order given.
	Ignored []string
}

// Split cuts a command line into words as a shell does: blanks, single and
// double quotes, backslashes. Variables and commands are not looked into.
func Split(line string) (words []string, err error) {
	var b strings.Builder
	open, quote := false, byte(0)
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case quote == '\'' && c != '\'', quote == '"' && c != '"' && c != '\\':
			b.WriteByte(c)
		case quote != 0 && c == quote:
			quote = 0
		case c == '\\' && i+1 < len(line):
			i++
			if quote == '"' && strings.IndexByte("\"\\$`\n", line[i]) < 0 {
				b.WriteByte('\\')
			}
			if line[i] != '\n' {
				open = true
				b.WriteByte(line[i])
			}
		case c == '\'' || c == '"':
			quote, open = c, true
		case strings.IndexByte(" \t\r\n", c) >= 0:
			if open {
				words = append(words, b.String())
				b.Reset()
				open = false
			}
		default:
			open = true
			b.WriteByte(c)
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a quote %c is not closed", quote)
	}
	if open {
		words = append(words, b.String())
	}
	return words, nil
}

// Parse reads options; a leading word "imapsync" is passed over. All mistakes
// are told at once.
func Parse(args []string) (*Job, error) {
	if len(args) > 0 && (args[0] == "imapsync" || strings.HasSuffix(args[0], "/imapsync")) {
		args = args[1:]
	}
	j := &Job{}
	var errs []error
	for len(args) > 0 {
		rest, err := j.option(args)
		if err != nil {
			errs = append(errs, err)
		}
		args = rest
	}
	errs = append(errs, j.From.finish("1"), j.To.finish("2"), j.check())
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return j, nil
}

// option reads the first option of args and gives the rest.
func (j *Job) option(args []string) (rest []string, err error) {
	word, value, inline := strings.Cut(args[0], "=")
	rest = args[1:]
	name := strings.TrimLeft(word, "-")
	if name == word {
		return rest, fmt.Errorf("%q is no option", args[0])
	}
	o, no := find(name)
	if o == nil {
		return rest, fmt.Errorf("--%s: unknown option", name)
	}
	if o.kind != flagKind && !no && !inline {
		if len(rest) == 0 {
			return rest, fmt.Errorf("--%s wants a value", name)
		}
		value, rest = rest[0], rest[1:]
	}
	switch {
	case no && o.no != nil:
		err = o.no(j)
	case no && slices.Contains(alwaysOn, o.names[0]):
		err = errors.New("not to be had: it is always done")
	case no && o.why != "", no && o.set != nil && o.kind == flagKind: // off is what we do
	case o.set != nil && !no:
		err = o.set(j, value)
	case o.why != "":
		err = fmt.Errorf("not to be had: %s", o.why)
	default:
		j.Ignored = append(j.Ignored, name)
	}
	if err != nil {
		err = fmt.Errorf("--%s: %w", name, err)
	}
	return rest, err
}

// find gives the option of a name, or of its negation.
func find(name string) (o *option, no bool) {
	at := func(name string) *option {
		for i := range options {
			for _, n := range options[i].names {
				if n == name {
					return &options[i]
				}
			}
		}
		return nil
	}
	if o := at(name); o != nil {
		return o, false
	}
	for _, prefix := range []string{"no-", "no"} {
		if s, ok := strings.CutPrefix(name, prefix); ok {
			if o := at(s); o != nil {
				return o, true
			}
		}
	}
	return nil, false
}

// finish settles how a side is protected: TLS from the beginning where its port
// is said, or no port is; STARTTLS with --tls or port 143.
func (s *Side) finish(n string) error {
	if s.Password == "" {
		s.Password = backend.Secret(os.Getenv("IMAPSYNC_PASSWORD" + n))
	}
	switch {
	case s.ssl:
		s.TLS = backend.TLSImplicit
	case s.tls, s.Port == 143 && !s.notls, s.nossl && !s.notls:
		s.TLS = backend.TLSStartTLS
	case s.nossl && s.notls:
		s.TLS = backend.TLSNone
	default:
		s.TLS = backend.TLSImplicit
		if s.Port != 0 && s.Port != 993 {
			s.TLS = backend.TLSStartTLS
		}
	}
	return nil
}

// check wants what belongs together.
func (j *Job) check() error {
	f := &j.Filter
	if f.MinAge > 0 && f.MaxAge > 0 && f.MinAge >= f.MaxAge {
		return fmt.Errorf("--minage and --maxage together leave nothing; imapsync takes both ends of time then: use --search 'OR BEFORE ... SINCE ...'")
	}
	if err := f.Check(); err != nil {
		return fmt.Errorf("--include, --exclude, --regexflag, --search: %w", err)
	}
	if err := j.Rules.Check(); err != nil {
		return fmt.Errorf("--regextrans2, --sep2: %w", err)
	}
	return nil
}

// Complete reports what two servers need that was not said.
func (j *Job) Complete() error {
	var errs []error
	for _, s := range []struct {
		n string
		*Side
	}{{"1", &j.From}, {"2", &j.To}} {
		if s.Host == "" {
			errs = append(errs, fmt.Errorf("--host%s is missing", s.n))
		}
		if s.User == "" {
			errs = append(errs, fmt.Errorf("--user%s is missing", s.n))
		}
		if s.Password == "" {
			errs = append(errs, fmt.Errorf("--password%s or --passfile%s is missing", s.n, s.n))
		}
	}
	return errors.Join(errs...)
}

// Store is a side as a store of that name.
func (s *Side) Store(name string) *backend.Store {
	st := &backend.Store{Name: name, Type: backend.StoreGeneric, Address: s.Host, TLS: s.TLS, Login: backend.Login{Mode: backend.LoginUser}}
	st.Ports = make(map[backend.Protocol]int)
	for p, n := range map[backend.Protocol]int{backend.IMAP: s.Port, backend.ManageSieve: s.SievePort, backend.POP3: s.POP3Port} {
		if n != 0 {
			st.Ports[p] = n
		}
	}
	if s.TLS == backend.TLSImplicit { // ManageSieve knows STARTTLS only (RFC 5804)
		st.SieveTLS = backend.TLSStartTLS
	}
	if s.Insecure {
		st.TLSConfig = &tls.Config{InsecureSkipVerify: true, ServerName: s.Host} //nolint:gosec // the user said so
	}
	if s.AuthUser != "" {
		st.Login = backend.Login{Mode: backend.LoginAuthzid, User: s.AuthUser, Secret: s.Password}
		if s.ProxyAuth {
			st.Login.Mode = backend.LoginProxyAuth
		}
	}
	return st
}

func octets(v string, by int64, to *int64) error {
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 {
		return fmt.Errorf("%q is no number of octets", v)
	}
	*to = n + by
	return nil
}

func days(v string, to *time.Duration) error {
	n, err := strconv.ParseFloat(v, 64)
	if err != nil || n < 0 || n > 36500 {
		return fmt.Errorf("%q is no number of days", v)
	}
	*to = time.Duration(n * 24 * float64(time.Hour))
	return nil
}
