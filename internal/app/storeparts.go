package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	"mailferry/backend"
	"mailferry/backend/directory"
	"mailferry/internal/config"
	"mailferry/store"
)

// openStore opens our own mailstore over the engine.
func (a *App) openStore(context.Context) error {
	if !a.conf.HasRole(config.RoleStore) {
		return nil
	}
	s, err := store.New(store.Options{Engine: a.engine, Logger: a.log.With("part", "store"), Now: a.o.Now, Metrics: a.o.Registry})
	if err != nil {
		return err
	}
	a.store = s
	a.users = &users{store: s, forget: func(name string) { a.dirs.Invalidate(name) }, kick: func(name string) {
		if a.proxy != nil {
			a.proxy.Kick(name)
		}
	}}
	a.life.onClose("store", s.Close)
	a.parts = append(a.parts, part{name: "sweep", serve: s.KeepSwept})
	return nil
}

// openStores makes the stores that routes can name.
func (a *App) openStores(context.Context) (err error) {
	if a.stores, err = makeStores(a.conf.Stores); err != nil {
		return err
	}
	a.routes, err = directory.NewStores(a.stores)
	return err
}

func makeStores(list []config.Store) ([]*backend.Store, error) {
	var stores []*backend.Store
	for i := range list {
		c := &list[i]
		s := &backend.Store{Name: c.Name, Type: c.Type, Address: c.Address, TLS: c.TLS, LMTPTLS: c.LMTPTLS, Ports: map[backend.Protocol]int{},
			MaxConnections: c.Connections, MaxLogins: float64(c.Logins), MaxOctets: int64(c.Bandwidth), Compress: c.Compress,
			Identity: c.Identity, TakesTokens: c.Tokens, Alternates: c.Alternates, MaxSessions: c.Sessions,
			Login: backend.Login{Mode: c.Login.Mode, User: c.Login.User, Secret: c.Login.Password, Separator: c.Login.Separator, Capture: c.Login.Capture}}
		for protocol, port := range c.Ports {
			s.Ports[backend.Protocol(protocol)] = port
		}
		var err error
		if s.TLSConfig, err = clientTLS(c.CA, c.TLSName); err != nil {
			return nil, fmt.Errorf("%s: %w", c.Name, err)
		}
		if c.Login.Mode == backend.LoginOAuth {
			if s.Login.Tokens, err = tokenSource(&c.Login.OAuth); err != nil {
				return nil, fmt.Errorf("%s: %w", c.Name, err)
			}
		}
		stores = append(stores, s)
	}
	return stores, nil
}

// clientTLS verifies servers by the authorities in a file, or those of the
// system, and by another name than the address where one is given.
func clientTLS(caFile, name string) (*tls.Config, error) {
	if caFile == "" && name == "" {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: name}
	if caFile == "" {
		return c, nil
	}
	text, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s: no certificate in it", caFile)
	}
	return c, nil
}
