package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"mailferry/backend"
	"mailferry/internal/admin"
)

// buildAdmin serves the API on the socket and over HTTPS.
func (a *App) buildAdmin(context.Context) error {
	if err := registerProcess(a.o.Registry, a.o.Version); err != nil {
		return err
	}
	service := &admin.Service{Health: a.health, Routes: (*routes)(a), Metrics: a.o.Registry,
		Authenticate: a.authenticateAdmin, Certificate: a.admins.admin, Logger: a.log.With("part", "admin")}
	if a.users != nil {
		service.Users, service.Checker = a.users, a.users
	}
	if err := a.admins.load(&a.conf.Admin); err != nil {
		return err
	}
	a.addProxyService(service)
	a.addMigrationService(service)
	a.parts = append(a.parts, a.httpPart("admin socket", service.SocketHandler(), a.socket))
	for _, l := range a.listeners["admin"] {
		a.parts = append(a.parts, a.httpPart("admin", service.HTTPSHandler(), tls.NewListener(l, a.httpTLS())))
	}
	return nil
}

func (a *App) httpTLS() *tls.Config {
	c := a.certs.config()
	c.NextProtos = []string{"http/1.1"}
	c.SessionTicketsDisabled = true // few come, and seldom
	return a.admins.ask(c)
}

// httpPart serves on one listener. Streams end with the node: their requests'
// contexts come from it.
func (a *App) httpPart(name string, h http.Handler, l net.Listener) part {
	base, cancel := context.WithCancel(context.Background())
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute,
		BaseContext: func(net.Listener) context.Context { return base },
		ErrorLog:    slog.NewLogLogger(a.log.Handler(), slog.LevelDebug)}
	return part{name: name,
		serve: func(context.Context) error {
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		},
		stop: func(ctx context.Context) error {
			cancel()
			return server.Shutdown(ctx)
		}}
}

func (a *App) authenticateAdmin(ctx context.Context, user string, p backend.Secret) error {
	if a.users == nil {
		return backend.NewError(backend.KindUnavailable, "this node keeps no users; use its socket")
	}
	// A password costs memory and time to check: guessing must not take the
	// machine from the mail.
	select {
	case a.adminChecks <- struct{}{}:
		defer func() { <-a.adminChecks }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return a.users.authenticateAdmin(ctx, user, p)
}

// health says how the node is.
func (a *App) health(context.Context) admin.Health {
	h := admin.Health{Node: a.conf.Node, Version: a.o.Version, Since: a.since, Listen: map[string]string{}}
	for _, r := range a.conf.Roles {
		h.Roles = append(h.Roles, string(r))
	}
	for name := range a.listeners {
		h.Listen[name] = a.listeners.addr(name)
	}
	if a.proxy != nil && a.proxy.Draining() {
		h.Problems = append(h.Problems, "the node is being drained")
	}
	if err := a.engine.Err(); err != nil {
		h.Problems = append(h.Problems, fmt.Sprintf("mailstore: %v", err))
	}
	return h
}

// registerProcess adds what every Go program can tell of itself.
func registerProcess(r *prometheus.Registry, version string) error {
	info := prometheus.NewGauge(prometheus.GaugeOpts{Name: "mailferry_info", Help: "Always 1; the version is a label.",
		ConstLabels: prometheus.Labels{"version": version}})
	info.Set(1)
	return errors.Join(r.Register(info), r.Register(collectors.NewGoCollector()),
		r.Register(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})))
}
