package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"mailferry/backend"
	"mailferry/backend/directory"
	"mailferry/cluster"
	"mailferry/internal/config"
	"mailferry/internal/lastlogin"
	"mailferry/internal/logs"
	"mailferry/migrate"
	"mailferry/proxy"
	"mailferry/store"
)

// Options are what a node is made from.
type Options struct {
	// Load reads the configuration: once by New, again by each Reload.
	Load func() (*config.Config, error)
	// Log gets what the configuration says is logged.
	Log io.Writer
	// Banner gets how to connect, with the passwords made at the first start;
	// nil: nobody.
	Banner  io.Writer
	Version string
	// Registry gets the node's metrics; nil: a new one. Two nodes in one
	// process need two.
	Registry *prometheus.Registry
	// Now is the clock of certificates and records; nil: time.Now.
	Now func() time.Time
}

// App is a node. New builds it, Start serves, Stop ends it; the methods are
// safe for concurrent use after New.
type App struct {
	// set by New
	o         Options
	conf      *config.Config // as of the start
	logs      *logs.Log
	logConf   config.Log // as of the last reload
	log       *slog.Logger
	life      *lifecycle
	since     time.Time
	listeners listeners
	socket    net.Listener
	certs     certificates
	admins    adminCerts
	clients   clientCerts
	backends  *proxy.Backends // nil without the role proxy
	engine    *cluster.Node
	store     *store.Store // nil without the role
	users     *users       // nil without the role
	stores    []*backend.Store
	routes    *directory.Stores
	dirs      *directories
	places    *placements
	local     *localIMAP        // nil without the role store
	pop3      *localPOP3        // nil without the role store
	proxy     *proxy.Proxy      // nil without the role
	inward    *pipeListener     // deliveries of our own users
	moves     *migrate.Engine   // nil without the role
	logins    *lastlogin.Record // nil without the role proxy or migrate
	parts     []part            // what Start serves, in order

	failed      chan error
	adminChecks chan struct{} // one for each password of an admin that may be checked at a time

	reloading sync.Mutex // one reload at a time
}

// part is something that serves until it is stopped. A serve that returns an
// error before its stop was called ends the node.
type part struct {
	name  string
	serve func(context.Context) error
	also  []func() error // further services, one per listener, that stop ends
	stop  func(context.Context) error
}

// New loads the configuration, opens the data directory and binds all
// listeners, so that nothing can fail later for want of a port. It serves
// nothing yet. When it fails, what it had opened is closed again.
func New(ctx context.Context, o Options) (_ *App, err error) {
	conf, err := o.Load()
	if err != nil {
		return nil, err
	}
	if o.Registry == nil {
		o.Registry = prometheus.NewRegistry()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	a := &App{o: o, conf: conf, since: o.Now(), failed: make(chan error, 1),
		adminChecks: make(chan struct{}, 2)}
	if a.logs, err = logs.New(logOptions(o.Log, &conf.Log)); err != nil {
		return nil, err
	}
	a.logConf = conf.Log
	a.log = a.logs.Logger().With("node", conf.Node)
	a.life = &lifecycle{log: a.log}
	a.life.onClose("log", a.logs.Close)
	defer func() {
		if err != nil {
			stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), conf.Shutdown)
			defer cancel()
			if e := a.life.stop(stopCtx); e != nil {
				a.log.Error("undoing a failed start", "error", e)
			}
		}
	}()
	for _, build := range []struct {
		name string
		fn   func(context.Context) error
	}{
		{"data directory", a.openData}, {"certificates", a.loadCertificates}, {"ACME", a.openACME}, {"listeners", a.bind},
		{"engine", a.openEngine}, {"store", a.openStore}, {"stores", a.openStores}, {"directories", a.openDirectories},
		{"placements", a.openPlacements}, {"mail", a.buildMail}, {"migration", a.buildMigration},
		{"admin", a.buildAdmin},
	} {
		if err := build.fn(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", build.name, err)
		}
	}
	return a, nil
}

// Start serves all parts in order and returns. The first start on a data
// directory makes users and prints how to connect before it returns.
func (a *App) Start(ctx context.Context) error {
	if err := a.start(ctx); err != nil {
		return joinErrors(err, a.Stop())
	}
	a.log.Info("serving", "listen", a.listeners.summary())
	return nil
}

func (a *App) start(ctx context.Context) error {
	made, err := a.firstUsers(ctx)
	if err != nil {
		return fmt.Errorf("first users: %w", err)
	}
	for _, p := range a.parts {
		a.serve(ctx, p)
	}
	if err := a.resumeMoves(ctx); err != nil {
		return fmt.Errorf("migration: %w", err)
	}
	return a.banner(made)
}

// serve runs a part in a goroutine of its own, which its stop step awaits.
func (a *App) serve(ctx context.Context, p part) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	var services sync.WaitGroup
	run := func(serve func() error) {
		services.Go(func() {
			if err := serve(); err != nil && ctx.Err() == nil {
				a.fail(fmt.Errorf("%s: %w", p.name, err))
			}
		})
	}
	run(func() error { return p.serve(ctx) })
	for _, serve := range p.also {
		run(serve)
	}
	go func() {
		services.Wait()
		close(done)
	}()
	a.life.onStop(p.name, func(stopCtx context.Context) error {
		var err error
		if p.stop != nil {
			err = p.stop(stopCtx)
		}
		cancel()
		select {
		case <-done:
			return err
		case <-stopCtx.Done():
			return joinErrors(err, fmt.Errorf("still running: %w", stopCtx.Err()))
		}
	})
}

// fail reports the first failure that the node cannot go on with.
func (a *App) fail(err error) {
	select {
	case a.failed <- err:
	default:
	}
}

// Failed gets one error when a part has ended that should not have: the node
// is to be stopped.
func (a *App) Failed() <-chan error { return a.failed }

// Stop ends everything in reverse order within the configured time: clients are
// told goodbye at their next quiet moment. Further calls do nothing.
func (a *App) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), a.conf.Shutdown)
	defer cancel()
	return a.life.stop(ctx)
}

// Addr is the bound address of a listener, named as in the configuration;
// empty when it is not served.
func (a *App) Addr(name string) string { return a.listeners.addr(name) }

// Registry holds the node's metrics.
func (a *App) Registry() *prometheus.Registry { return a.o.Registry }
