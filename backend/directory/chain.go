package directory

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"mailferry/backend"
)

// ChainOptions configure a Chain.
type ChainOptions struct {
	// Directories are asked in this order; the first that knows the user answers.
	Directories []backend.Directory
	// TTL is how long an answer is used without asking again (0: 10 min),
	// StaleFor for how long it stands in when the directories cannot tell
	// (0: 24 h), NegativeTTL for how long "nobody has that name" is believed
	// (0: 30 s).
	TTL, StaleFor, NegativeTTL time.Duration
	// StaleWait is how long a refresh may take before the old answer is served
	// (0: 250 ms); the refresh goes on behind.
	StaleWait time.Duration
	// Size bounds the names remembered, hits and misses each (0: 100,000).
	Size     int
	Logger   *slog.Logger
	Registry prometheus.Registerer // nil: no metrics
}

// Chain is the directory that everybody else uses: several drivers behind one
// cache. It implements backend.Directory, RouteWriter and UserLister.
//
// A driver that cannot tell ends the search, since it might have known the
// user: the answer is then the remembered one, or KindUnavailable. Concurrent
// lookups of one name share one search. Every lookup ends within 5 s.
type Chain struct {
	o       ChainOptions
	log     *slog.Logger
	byName  map[string]backend.Directory
	cache   *cache
	flights singleflight.Group
	lookups *prometheus.CounterVec
	seconds prometheus.Histogram

	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

// Results of mailferry_directory_lookups_total, the closed list.
const (
	resultCached      = "cached"
	resultFound       = "found"
	resultNotFound    = "notfound"
	resultStale       = "stale"
	resultUnavailable = "unavailable"
	resultRefused     = "refused"
)

// NewChain makes a chain. Close ends its background refreshes, not the
// directories, which belong to the caller.
func NewChain(o ChainOptions) (*Chain, error) {
	o.TTL = cmp.Or(o.TTL, 10*time.Minute)
	o.StaleFor = cmp.Or(o.StaleFor, 24*time.Hour)
	o.NegativeTTL = cmp.Or(o.NegativeTTL, 30*time.Second)
	o.StaleWait = cmp.Or(o.StaleWait, 250*time.Millisecond)
	o.Size = cmp.Or(o.Size, 100_000)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Chain{o: o, log: o.Logger, byName: map[string]backend.Directory{}, cache: newCache(o.Size)}
	for _, d := range o.Directories {
		if _, twice := c.byName[d.Name()]; twice {
			return nil, backend.Errorf(backend.KindInvalid, "", "two directories are called %q", d.Name())
		}
		c.byName[d.Name()] = d
	}
	return c, c.register(o.Registry)
}

func (c *Chain) register(r prometheus.Registerer) error {
	c.lookups = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mailferry_directory_lookups_total",
		Help: "Lookups of users by result: cached, found, notfound, stale, unavailable, refused."}, []string{"result"})
	c.seconds = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "mailferry_directory_lookup_seconds",
		Help: "Time of lookups that asked a directory.", Buckets: prometheus.ExponentialBuckets(0.0005, 3, 9)})
	if r == nil {
		return nil
	}
	if err := r.Register(c.lookups); err != nil {
		return err
	}
	return r.Register(c.seconds)
}

// Name implements backend.Directory.
func (c *Chain) Name() string { return "chain" }

// Close waits for lookups that run; they end within 5 s.
func (c *Chain) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.wg.Wait()
	return nil
}

// Lookup implements backend.Directory, from memory where it can.
func (c *Chain) Lookup(ctx context.Context, name string) (backend.Entry, error) {
	if !validName(name) {
		return backend.Entry{}, notFound(c.Name(), name)
	}
	old, known, epoch := c.cache.get(name)
	age := time.Since(old.at)
	if known && (old.err == nil && age < c.o.TTL || old.err != nil && age < c.o.NegativeTTL) {
		c.lookups.WithLabelValues(resultCached).Inc()
		return old.entry, old.err
	}
	answer := c.start(name, epoch)
	var patience <-chan time.Time
	stale := known && old.err == nil && age < c.o.StaleFor
	if stale {
		t := time.NewTimer(c.o.StaleWait)
		defer t.Stop()
		patience = t.C
	}
	select {
	case r := <-answer:
		e, _ := r.Val.(backend.Entry)
		if stale && backend.IsKind(r.Err, backend.KindUnavailable) {
			c.log.Warn("directory cannot tell, an older answer is used", "name", name, "age", age.Round(time.Second), "error", r.Err)
			break
		}
		return e, r.Err
	case <-patience:
	case <-ctx.Done():
		return backend.Entry{}, backend.Errorf(backend.KindUnavailable, "", "lookup of %q: %w", name, ctx.Err())
	}
	c.lookups.WithLabelValues(resultStale).Inc()
	return old.entry, nil
}

// start joins or begins the one search for name. It is nobody's in particular:
// a caller that goes away does not end it for the others.
func (c *Chain) start(name string, epoch uint64) <-chan singleflight.Result {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		ch := make(chan singleflight.Result, 1)
		ch <- singleflight.Result{Err: backend.Errorf(backend.KindUnavailable, "", "directory is closed")}
		return ch
	}
	c.wg.Add(1)
	out := make(chan singleflight.Result, 1)
	in := c.flights.DoChan(name, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.Background(), lookupLimit)
		defer cancel()
		return c.ask(ctx, name, epoch)
	})
	go func() {
		defer c.wg.Done()
		out <- <-in
	}()
	return out
}

// ask goes through the directories and files the answer.
func (c *Chain) ask(ctx context.Context, name string, epoch uint64) (backend.Entry, error) {
	begin := time.Now()
	e, err := c.search(ctx, name)
	c.seconds.Observe(time.Since(begin).Seconds())
	result := resultFound
	switch {
	case err == nil:
		c.cache.put(name, cached{entry: e, at: time.Now()}, epoch)
	case backend.IsKind(err, backend.KindNotFound):
		result = resultNotFound
		c.cache.put(name, cached{err: err, at: time.Now()}, epoch)
	case backend.IsKind(err, backend.KindUnavailable):
		result = resultUnavailable
	default:
		result = resultRefused
		c.log.Warn("directory refuses a user", "name", name, "error", err)
	}
	c.lookups.WithLabelValues(result).Inc()
	return e, err
}

func (c *Chain) search(ctx context.Context, name string) (backend.Entry, error) {
	for _, d := range c.o.Directories {
		e, err := d.Lookup(ctx, name)
		if err == nil || !backend.IsKind(err, backend.KindNotFound) {
			return e, classified(d.Name(), err)
		}
	}
	return backend.Entry{}, notFound(c.Name(), name)
}

// classified makes KindUnavailable of an error without a kind: a driver's bug
// or a cancelled context says nothing about the user.
func classified(directory string, err error) error {
	if err == nil || backend.KindOf(err) != backend.KindBug {
		return err
	}
	return backend.Errorf(backend.KindUnavailable, "", "directory %s: %w", directory, err)
}

// Authenticate asks the directory that answered the lookup.
func (c *Chain) Authenticate(ctx context.Context, e backend.Entry, password backend.Secret) error {
	d := c.byName[e.Directory]
	if d == nil {
		return backend.Errorf(backend.KindUnavailable, "", "no directory %q any more", e.Directory)
	}
	if password == "" {
		return wrongPassword(e.Directory, e.User)
	}
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	err := classified(e.Directory, d.Authenticate(ctx, e, password))
	if backend.IsKind(err, backend.KindAuthentication) {
		c.suspect(e.User)
	}
	return err
}

// suspect forgets a user after a wrong password, because a renamed entry looks
// the same; answers of the last 30 s are believed, or guessing would go round
// the cache.
func (c *Chain) suspect(user string) {
	if v, ok, _ := c.cache.get(user); !ok || time.Since(v.at) > 30*time.Second {
		c.cache.forget(user)
	}
}

// nobodyAuthenticator is a driver that can spend the time of a failing
// Authenticate.
type nobodyAuthenticator interface {
	AuthenticateNobody(ctx context.Context, password backend.Secret)
}

// AuthenticateNobody does the work of a failing Authenticate for a user that
// no directory knows.
func (c *Chain) AuthenticateNobody(ctx context.Context, password backend.Secret) {
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	for _, d := range c.o.Directories {
		if n, ok := d.(nobodyAuthenticator); ok {
			n.AuthenticateNobody(ctx, password)
			return
		}
	}
}

// SetStore rewrites the store where the entry came from and forgets the user.
func (c *Chain) SetStore(ctx context.Context, e backend.Entry, store string) error {
	w, ok := c.byName[e.Directory].(backend.RouteWriter)
	if !ok {
		return backend.Errorf(backend.KindPermission, "", "directory %q cannot be written", e.Directory)
	}
	err := w.SetStore(ctx, e, store)
	c.Invalidate(e.User) // also after an error: it may have been done
	return err
}

// Invalidate forgets a name; given a user, all names of the user. Lookups that
// run are not remembered.
func (c *Chain) Invalidate(name string) {
	for _, n := range c.cache.forget(name) {
		c.flights.Forget(n)
		for _, d := range c.o.Directories {
			if i, ok := d.(invalidator); ok {
				i.Invalidate(n)
			}
		}
	}
}

// invalidator is a driver that remembers on its own.
type invalidator interface{ Invalidate(name string) }

// Changed forgets what came from a directory's entries with these handles, and
// these names; the driver itself knows better already.
func (c *Chain) Changed(directory string, ids, names []string) {
	for _, id := range ids {
		names = append(names, handle(directory, id))
	}
	for _, name := range names {
		for _, n := range c.cache.forget(name) {
			c.flights.Forget(n)
		}
	}
}

// Users lists the users of every directory that can list. filter is in a
// directory's own language, so give one only when there is one directory, or
// ask that one by Directory.
func (c *Chain) Users(ctx context.Context, filter string) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		for _, d := range c.o.Directories {
			l, ok := d.(backend.UserLister)
			if !ok {
				continue
			}
			for e, err := range l.Users(ctx, filter) {
				if err != nil {
					err = fmt.Errorf("directory %s: %w", d.Name(), err)
				}
				if !yield(e, err) {
					return
				}
			}
		}
	}
}

// Directory returns a directory by its configured name.
func (c *Chain) Directory(name string) (backend.Directory, bool) {
	d, ok := c.byName[name]
	return d, ok
}
