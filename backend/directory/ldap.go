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
	// FollowReferrals: other servers that an answer names are asked, too, one
	// step far, as the same identity and never with less TLS. Otherwise they
	// are ignored, and a server that answers with nothing else cannot tell.
	FollowReferrals bool
	// RememberPasswords is how long a password that a server accepted counts
	// while no server answers; 0: none is remembered. Its argon2id hash is
	// kept in memory alone.
	RememberPasswords time.Duration
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
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Now is the clock of what is remembered; nil: time.Now.
	Now    func() time.Time
	Logger *slog.Logger
}

// LDAP is the driver for LDAP directories. It also implements RouteWriter and
// UserLister. Every call ends within lookupLimit.
type LDAP struct {
	o       LDAPOptions
	log     *slog.Logger
	servers []*ldapServer
	form    form
	known   *verified // nil: passwords are not remembered
}

// form is what one kind of LDAP directory does in its own way.
type form interface {
	// find is the filter for the entry of a name, with the name escaped. none:
	// nobody can have that name here.
	find(ctx context.Context, name string) (filter string, none bool, err error)
	// tested are the attributes that find compares with names or parts of them.
	tested() []string
	// further attributes that refine needs; refine may change what was mapped.
	further() []string
	refine(in *ldap.Entry, e *backend.Entry)
	// bindError says what a failed bind as the user means: refused with a
	// reason for the log, or (reason nil) that the server did not answer.
	bindError(err error) (reason error)
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
	if o.Now == nil {
		o.Now = time.Now
	}
	d := &LDAP{o: o, log: o.Logger.With("directory", o.Name)}
	d.form = generic{d}
	if o.RememberPasswords > 0 {
		d.known = newVerified(o.RememberPasswords, o.Now)
	}
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
	d.known.close()
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

// Lookup implements backend.Directory.
func (d *LDAP) Lookup(ctx context.Context, name string) (backend.Entry, error) {
	in, err := d.find(ctx, name)
	if err != nil {
		return backend.Entry{}, err
	}
	return d.entry(in)
}

// find returns the one entry of a name, or why there is none.
func (d *LDAP) find(ctx context.Context, name string) (*ldap.Entry, error) {
	if !validName(name) {
		return nil, notFound(d.o.Name, name)
	}
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	filter, none, err := d.form.find(ctx, name)
	switch {
	case err != nil:
		return nil, d.unavailable(err)
	case none:
		return nil, notFound(d.o.Name, name)
	}
	found, err := d.searchOne(ctx, filter)
	switch {
	case err != nil:
		return nil, d.unavailable(err)
	case len(found) == 0:
		return nil, notFound(d.o.Name, name)
	case len(found) > 1:
		return nil, d.ambiguous(name, found[0].DN, found[1].DN)
	}
	return found[0], nil
}

func (d *LDAP) ambiguous(name, one, other string) error {
	return backend.Errorf(backend.KindConflict, "", "directory %s: more than one entry for %q: %s, %s", d.o.Name, name, one, other)
}

// searchOne looks for one entry; it returns up to two, which is one too many.
func (d *LDAP) searchOne(ctx context.Context, filter string) (found []*ldap.Entry, err error) {
	req := &ldap.SearchRequest{
		BaseDN: d.o.Base, Scope: ldap.ScopeWholeSubtree, DerefAliases: ldap.NeverDerefAliases,
		SizeLimit:  2, // enough to see that there is more than one
		TimeLimit:  max(1, int(d.o.RequestTimeout/time.Second)),
		Filter:     filter,
		Attributes: d.attributes(),
	}
	d.traceServers(ctx)
	err = d.each(ctx, func(s *ldapServer) (bool, error) {
		var refs []string
		err := s.do(ctx, searchIdentity, func(c *ldap.Conn) error {
			found, refs, err = searchReferred(c, req)
			if d.o.FollowReferrals && ldap.IsErrorWithCode(err, ldap.LDAPResultReferral) {
				refs = referredBy(err)
				return nil
			}
			return err
		})
		d.traceSearch(ctx, s.url, req, found, err)
		if err != nil || !d.o.FollowReferrals {
			return false, err
		}
		more, err := s.follow(ctx, refs, req)
		if len(refs) > 0 {
			d.traceSearch(ctx, strings.Join(refs, ", "), req, more, err)
		}
		found = append(found, more...)
		return false, err
	})
	return found, err
}

func (d *LDAP) unavailable(err error) error {
	return backend.Errorf(backend.KindUnavailable, "", "directory %s: %w", d.o.Name, err)
}
