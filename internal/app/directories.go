package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/url"
	"path/filepath"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"mailferry/backend"
	"mailferry/backend/directory"
	"mailferry/internal/config"
)

// directories is the chain of directories in use. A reload puts another one in
// its place; calls that run end on the one they began with.
type directories struct {
	mu      sync.Mutex
	current *generation // guarded by mu
}

// generation is one configuration's chain.
type generation struct {
	chain  *directory.Chain
	owned  []io.Closer          // drivers with connections
	filter []backend.UserLister // those that know filters
	copies []*directory.Replica
	inside sync.WaitGroup
}

var (
	_ backend.Directory   = (*directories)(nil)
	_ backend.RouteWriter = (*directories)(nil)
	_ backend.UserLister  = (*directories)(nil)
)

// exchange puts a new chain in place and closes the old one when its last call
// has ended; these are bounded to seconds.
func (d *directories) exchange(g *generation) error {
	d.mu.Lock()
	old := d.current
	d.current = g
	d.mu.Unlock()
	var err error
	if old != nil {
		old.inside.Wait()
		err = old.close()
	}
	for _, r := range g.copies { // now, for the old one has written the file
		r.Start()
	}
	return err
}

func (g *generation) close() error {
	err := g.chain.Close()
	for _, c := range g.owned {
		err = errors.Join(err, c.Close())
	}
	return err
}

// enter returns the chain in use; call leave when done with it.
func (d *directories) enter() (c *directory.Chain, leave func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	g := d.current
	g.inside.Add(1)
	return g.chain, g.inside.Done
}

// Name implements backend.Directory.
func (d *directories) Name() string { return "directories" }

// Lookup implements backend.Directory.
func (d *directories) Lookup(ctx context.Context, name string) (backend.Entry, error) {
	c, leave := d.enter()
	defer leave()
	return c.Lookup(ctx, name)
}

// fresh is Lookup without what is remembered, for decisions that last. What is
// remembered stays for logins: the directory may be away.
func (d *directories) fresh(ctx context.Context, name string) (backend.Entry, error) {
	c, leave := d.enter()
	defer leave()
	known, err := c.Lookup(ctx, name)
	if err != nil {
		return known, err
	}
	owner, ok := c.Directory(known.Directory)
	if !ok {
		return known, nil
	}
	e, err := directory.Fresh(ctx, owner, name)
	if backend.IsKind(err, backend.KindNotFound) { // gone, or in another directory now
		c.Invalidate(name)
		return c.Lookup(ctx, name)
	}
	return e, err
}

// Authenticate implements backend.Directory.
func (d *directories) Authenticate(ctx context.Context, e backend.Entry, p backend.Secret) error {
	c, leave := d.enter()
	defer leave()
	return c.Authenticate(ctx, e, p)
}

// AuthenticateNobody spends the time of a failing Authenticate.
func (d *directories) AuthenticateNobody(ctx context.Context, p backend.Secret) {
	c, leave := d.enter()
	defer leave()
	c.AuthenticateNobody(ctx, p)
}

// SetStore implements backend.RouteWriter.
func (d *directories) SetStore(ctx context.Context, e backend.Entry, store string) error {
	c, leave := d.enter()
	defer leave()
	return c.SetStore(ctx, e, store)
}

// Users implements backend.UserLister. A filter is for the directories that
// know any; KindInvalid when none does.
func (d *directories) Users(ctx context.Context, filter string) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		d.mu.Lock()
		g := d.current
		g.inside.Add(1)
		d.mu.Unlock()
		defer g.inside.Done()
		listers := g.filter
		switch {
		case filter == "":
			listers = []backend.UserLister{g.chain}
		case len(listers) == 0:
			yield(backend.Entry{}, backend.NewError(backend.KindInvalid, "no directory knows filters; name users, or list them in a file"))
			return
		}
		for _, l := range listers {
			for e, err := range l.Users(ctx, filter) {
				if !yield(e, err) {
					return
				}
			}
		}
	}
}

// Invalidate forgets what is remembered of a name.
func (d *directories) Invalidate(name string) {
	c, leave := d.enter()
	defer leave()
	c.Invalidate(name)
}

// openDirectories makes the first generation.
func (a *App) openDirectories(context.Context) error {
	g, err := a.makeDirectories(a.conf)
	if err != nil {
		return err
	}
	a.dirs = &directories{}
	a.life.onClose("directories", func() error {
		a.dirs.mu.Lock()
		defer a.dirs.mu.Unlock()
		return a.dirs.current.close()
	})
	return a.dirs.exchange(g)
}

// makeDirectories builds the drivers and their chain; nothing is dialled.
func (a *App) makeDirectories(c *config.Config) (_ *generation, err error) {
	g := &generation{}
	defer func() {
		if err != nil {
			for _, o := range g.owned {
				err = errors.Join(err, o.Close())
			}
		}
	}()
	var list []backend.Directory
	for i := range c.Directories {
		d, err := a.makeDirectory(&c.Directories[i])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.Directories[i].Name, err)
		}
		if owned, ok := d.(io.Closer); ok {
			g.owned = append(g.owned, owned)
		}
		if source, ok := d.(*directory.LDAP); ok {
			r, err := a.makeReplica(c, &c.Directories[i], source, g)
			if err != nil {
				return nil, fmt.Errorf("%s: replica: %w", c.Directories[i].Name, err)
			}
			if r != nil {
				d = r
			}
			g.filter = append(g.filter, d.(backend.UserLister))
		}
		list = append(list, underNames(d, c.Directories[i].Names))
	}
	g.chain, err = directory.NewChain(directory.ChainOptions{Directories: list, TTL: c.Cache.For, NegativeTTL: c.Cache.Misses,
		StaleFor: c.Cache.Stale, Logger: a.log.With("part", "directory"), Registry: replacing{a.o.Registry}})
	return g, err
}

func (a *App) makeDirectory(c *config.Directory) (backend.Directory, error) {
	log := a.log.With("part", "directory")
	switch c.Type {
	case config.DirectoryLocal:
		return directory.NewLocal(directory.LocalOptions{Name: c.Name, Users: a.users, Store: c.Store}), nil
	case config.DirectoryFile:
		return directory.NewFile(directory.FileOptions{Name: c.Name, Path: c.Path, Popmap: c.Format == config.FormatPopmap,
			Delimiter: delimiter(c.Names), DefaultStore: c.Store,
			StoreChecks: c.Passwords == config.PasswordsPass, Write: c.Writable, Logger: log})
	case config.DirectoryRegex:
		o := directory.RegexOptions{Name: c.Name, DefaultStore: c.Store}
		for _, r := range c.Rules {
			o.Rules = append(o.Rules, directory.RegexRule(r))
		}
		return directory.NewRegex(o)
	case config.DirectoryHTTP:
		return makeHTTP(c, log)
	}
	return makeLDAP(c, log)
}

func makeHTTP(c *config.Directory, log *slog.Logger) (backend.Directory, error) {
	tlsConfig, err := clientTLS(c.CA, "")
	if err != nil {
		return nil, err
	}
	return directory.NewHTTP(directory.HTTPOptions{Name: c.Name, URL: c.URL, TLSConfig: tlsConfig, Header: c.Header, HeaderValue: c.HeaderValue,
		DefaultStore: c.Store, CheckPassword: c.Passwords == config.PasswordsBind, Timeout: c.Timeout, Connections: c.Connections, Logger: log})
}

// makeReplica puts a copy before a directory, nil where none is configured. It
// is started when the generation comes into use.
func (a *App) makeReplica(c *config.Config, d *config.Directory, source *directory.LDAP, g *generation) (*directory.Replica, error) {
	if d.Replica == nil {
		return nil, nil
	}
	data := c.Data
	if a.conf != nil {
		data = a.conf.Data // a reload does not move it
	}
	r, err := directory.NewReplica(directory.ReplicaOptions{Source: source, Path: filepath.Join(data, dirReplicas, url.PathEscape(d.Name)+".routes"),
		Feed: d.Replica.Feed, Poll: d.Replica.Poll, Full: d.Replica.Full, Stale: d.Replica.Stale, MaxUsers: d.Replica.MaxUsers,
		Changed: func(name string, ids, names []string) { g.chain.Changed(name, ids, names) },
		Logger:  a.log.With("part", "directory"), Registry: replacing{a.o.Registry}})
	if err != nil {
		return nil, err
	}
	g.copies = append(g.copies, r)
	g.owned = slices.Insert(g.owned, 0, io.Closer(r)) // before the source
	return r, nil
}

// underNames puts the configured names before a directory.
func underNames(d backend.Directory, n *config.Names) backend.Directory {
	if n == nil {
		return d
	}
	return directory.NewNames(d, directory.NamesOptions{Delimiter: n.Delimiter, Key: n.Key,
		Lookup: directory.NameForm(n.Lookup), Login: directory.NameForm(n.Login), AsGiven: n.From == config.NamesGiven})
}

func delimiter(n *config.Names) string {
	if n == nil {
		return ""
	}
	return n.Delimiter
}

func makeLDAP(c *config.Directory, log *slog.Logger) (backend.Directory, error) {
	tlsConfig, err := clientTLS(c.CA, "")
	if err != nil {
		return nil, err
	}
	o := directory.LDAPOptions{Name: c.Name, Servers: c.Servers, StartTLS: c.StartTLS, TLSConfig: tlsConfig,
		BindDN: c.BindDN, BindPassword: c.BindPassword, Base: c.Base, Filter: c.Filter, ListFilter: c.ListFilter,
		Attributes: directory.LDAPAttributes{User: c.Attributes.User, Store: c.Attributes.Store,
			Disabled: c.Attributes.Disabled, Recipients: c.Attributes.Recipients, Host: c.Attributes.Host, Port: c.Attributes.Port,
			Quota: c.Attributes.Quota, Services: c.Attributes.Services},
		FollowReferrals: c.Referrals == config.ReferralsFollow, RememberPasswords: c.Remember,
		DefaultStore: c.Store, CheckPassword: c.Passwords == config.PasswordsBind, PoolSize: c.Connections, RequestTimeout: c.Timeout, Logger: log}
	if c.Write != nil {
		o.WriteDN, o.WritePassword = c.Write.BindDN, c.Write.Password
	}
	if c.Type == config.DirectoryAD {
		return directory.NewAD(directory.ADOptions{LDAPOptions: o, Domain: c.Domain, Realm: c.Realm, Groups: c.Groups})
	}
	return directory.NewLDAP(o)
}

// replacing registers collectors in place of their like: a reload makes parts
// anew whose metrics go on under the same names.
type replacing struct{ *prometheus.Registry }

// Register implements prometheus.Registerer.
func (r replacing) Register(c prometheus.Collector) error {
	err := r.Registry.Register(c)
	var taken prometheus.AlreadyRegisteredError
	if errors.As(err, &taken) {
		r.Unregister(taken.ExistingCollector)
		err = r.Registry.Register(c)
	}
	return err
}

// explain tells step by step what is known of a name.
func (d *directories) explain(ctx context.Context, name string) directory.Explanation {
	c, leave := d.enter()
	defer leave()
	return c.Explain(ctx, name)
}
