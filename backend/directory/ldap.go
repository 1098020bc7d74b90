package directory

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"

	"mailferry/backend"
)

// LDAPOptions configure one LDAP directory.
type LDAPOptions struct {
	Name string
	// Servers are ldap:// and ldaps:// URLs, the preferred one first. A server
	// that fails is left alone for a second to five, then probed, and used
	// again as soon as it answers.
	Servers []string
	// StartTLS is required of ldap:// servers before anything is sent.
	StartTLS bool
	// TLSConfig verifies the servers; nil: system roots. The name verified is
	// the URL's unless ServerName is set.
	TLSConfig *tls.Config
	// BindDN and BindPassword are for searches; both empty: anonymous.
	BindDN       string
	BindPassword backend.Secret
	Base         string
	// Filter finds one user; {user}, {local} and {domain} are replaced by the
	// escaped name and its parts.
	Filter string
	// ListFilter finds all users; empty: Filter with "*" in place of the names.
	ListFilter string
	Attributes LDAPAttributes
	// DefaultStore is the store of entries that name none; empty: only a
	// placement can route them.
	DefaultStore string
	// CheckPassword: passwords are checked by a bind as the user.
	CheckPassword bool
	// WriteDN and WritePassword rewrite the store attribute; WriteDN empty:
	// SetStore is refused with KindPermission.
	WriteDN       string
	WritePassword backend.Secret
	// PoolSize bounds connections per server and identity; 0: 8.
	PoolSize int
	// ConnectTimeout covers TCP, TLS and bind (0: 2 s), RequestTimeout one
	// request (0: 3 s).
	ConnectTimeout time.Duration
	RequestTimeout time.Duration
	// Dial opens TCP connections; nil: a net.Dialer.
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	Logger *slog.Logger
}

// LDAPAttributes map an LDAP entry to ours.
type LDAPAttributes struct {
	User     string // canonical name, exactly one value; default "uid"
	Store    string // store name or address, at most one value; default "mailHost"
	Disabled string // a true value (TRUE, yes, 1, disabled) locks the user out; empty: none
	// Recipients is a multi-valued attribute with further addresses; empty: none.
	Recipients string
}

// LDAP is the driver for LDAP directories. It also implements RouteWriter and
// UserLister. Every call ends within lookupLimit.
type LDAP struct {
	o       LDAPOptions
	log     *slog.Logger
	servers []*ldapServer
}

// lookupLimit bounds every call of a driver and of the Chain: connect, TLS,
// bind and search with all failovers.
const lookupLimit = 5 * time.Second

// NewLDAP checks the options; it does not connect.
func NewLDAP(o LDAPOptions) (*LDAP, error) {
	o.Attributes.User = cmp.Or(o.Attributes.User, "uid")
	o.Attributes.Store = cmp.Or(o.Attributes.Store, "mailHost")
	o.PoolSize = cmp.Or(o.PoolSize, 8)
	o.ConnectTimeout = cmp.Or(o.ConnectTimeout, 2*time.Second)
	o.RequestTimeout = cmp.Or(o.RequestTimeout, 3*time.Second)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	if o.ListFilter == "" {
		o.ListFilter = listFilter(o.Filter)
	}
	d := &LDAP{o: o, log: o.Logger.With("directory", o.Name)}
	var errs []error
	if len(o.Servers) == 0 {
		errs = append(errs, errors.New("no servers"))
	}
	if !strings.Contains(o.Filter, "{user}") && !strings.Contains(o.Filter, "{local}") {
		errs = append(errs, fmt.Errorf("filter %q names neither {user} nor {local}", o.Filter))
	}
	for _, f := range []string{d.filter("x@y"), o.ListFilter} {
		if _, err := ldap.CompileFilter(f); err != nil {
			errs = append(errs, fmt.Errorf("filter %q: %w", f, err))
		}
	}
	if _, err := ldap.ParseDN(o.Base); err != nil {
		errs = append(errs, fmt.Errorf("base %q: %w", o.Base, err))
	}
	if o.BindDN != "" && o.BindPassword == "" {
		errs = append(errs, fmt.Errorf("bind DN %q without a password", o.BindDN))
	}
	for _, u := range o.Servers {
		s, err := newLDAPServer(u, d)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		d.servers = append(d.servers, s)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, backend.Errorf(backend.KindInvalid, "", "directory %s: %w", o.Name, err)
	}
	return d, nil
}

// listFilter makes a presence test of each test for the name.
func listFilter(f string) string {
	f = strings.NewReplacer("{user}", "*", "{local}", "*", "{domain}", "*").Replace(f)
	return strings.ReplaceAll(f, "*@*", "*")
}

// Name is the configured name.
func (d *LDAP) Name() string { return d.o.Name }

// Close ends all connections and probes.
func (d *LDAP) Close() error {
	for _, s := range d.servers {
		s.close()
	}
	return nil
}

func (d *LDAP) filter(name string) string {
	local, domain := splitName(name)
	esc := ldap.EscapeFilter // RFC 4515, 3
	return strings.NewReplacer("{user}", esc(name), "{local}", esc(local), "{domain}", esc(domain)).Replace(d.o.Filter)
}

func (d *LDAP) attributes() []string {
	a := d.o.Attributes
	out := []string{a.User, a.Store}
	for _, s := range []string{a.Disabled, a.Recipients} {
		if s != "" {
			out = append(out, s)
		}
	}
	return out
}

// Lookup implements backend.Directory.
func (d *LDAP) Lookup(ctx context.Context, name string) (backend.Entry, error) {
	if !validName(name) {
		return backend.Entry{}, notFound(d.o.Name, name)
	}
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	req := &ldap.SearchRequest{
		BaseDN: d.o.Base, Scope: ldap.ScopeWholeSubtree, DerefAliases: ldap.NeverDerefAliases,
		SizeLimit:  2, // enough to see that there is more than one
		TimeLimit:  max(1, int(d.o.RequestTimeout/time.Second)),
		Filter:     d.filter(name),
		Attributes: d.attributes(),
	}
	var found []*ldap.Entry
	err := d.try(ctx, searchIdentity, func(c *ldap.Conn) error {
		res, err := c.Search(req)
		if res != nil {
			found = res.Entries
		}
		if ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded) && len(found) > 1 {
			return nil
		}
		return err
	})
	switch {
	case err != nil:
		return backend.Entry{}, d.unavailable(err)
	case len(found) == 0:
		return backend.Entry{}, notFound(d.o.Name, name)
	case len(found) > 1:
		return backend.Entry{}, backend.Errorf(backend.KindConflict, "", "directory %s: more than one entry for %q: %s, %s",
			d.o.Name, name, found[0].DN, found[1].DN)
	}
	return d.entry(found[0])
}

// entry maps what was found. Attributes are as untrusted as any input: control
// characters and ambiguous values are refused.
func (d *LDAP) entry(in *ldap.Entry) (backend.Entry, error) {
	a := d.o.Attributes
	e := backend.Entry{Directory: d.o.Name, ID: in.DN, CheckPassword: d.o.CheckPassword}
	users, stores := in.GetEqualFoldAttributeValues(a.User), in.GetEqualFoldAttributeValues(a.Store)
	if len(users) != 1 || !validName(users[0]) {
		return e, backend.Errorf(backend.KindConflict, "", "directory %s: %s: attribute %s: want one usable value, have %q", d.o.Name, in.DN, a.User, users)
	}
	if len(stores) > 1 || len(stores) == 1 && !validName(stores[0]) {
		return e, backend.Errorf(backend.KindConflict, "", "directory %s: %s: attribute %s: want one usable value, have %q", d.o.Name, in.DN, a.Store, stores)
	}
	e.User, e.Store = users[0], d.o.DefaultStore
	if len(stores) == 1 {
		e.Store = stores[0]
	}
	if a.Disabled != "" {
		e.Disabled = truth(in.GetEqualFoldAttributeValue(a.Disabled))
	}
	if a.Recipients != "" {
		e.Recipients = in.GetEqualFoldAttributeValues(a.Recipients)
	}
	return e, nil
}

// truth reads the words that directories use for a lock.
func truth(s string) bool {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "true", "yes", "y", "1", "on", "disabled", "inactive", "locked", "deleted":
		return true
	}
	return false
}

func (d *LDAP) unavailable(err error) error {
	return backend.Errorf(backend.KindUnavailable, "", "directory %s: %w", d.o.Name, err)
}
