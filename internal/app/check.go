package app

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"mailferry/backend/directory"
	"mailferry/internal/config"
)

// Check tries what New would do with a configuration, as far as nothing is
// opened, bound or dialled: certificates, authorities, filters. It returns all
// that is wrong.
func Check(c *config.Config) error {
	var errs []error
	for _, f := range c.TLS.Certificates {
		if _, err := tls.LoadX509KeyPair(f.Cert, f.Key); err != nil {
			errs = append(errs, fmt.Errorf("certificate %s: %w", f.Cert, err))
		}
	}
	if _, err := acmeRoots(c.TLS.ACME); err != nil {
		errs = append(errs, err)
	}
	if err := new(adminCerts).load(&c.Admin); err != nil {
		errs = append(errs, err)
	}
	stores, err := makeStores(c.Stores)
	if err == nil {
		_, err = directory.NewStores(stores)
	}
	if err != nil {
		errs = append(errs, fmt.Errorf("stores: %w", err))
	}
	a := &App{o: Options{Registry: prometheus.NewRegistry()}, log: slog.New(slog.DiscardHandler), users: &users{}}
	dirs, err := a.makeDirectories(c)
	if err != nil {
		errs = append(errs, fmt.Errorf("directories: %w", err))
	} else {
		errs = append(errs, dirs.close())
	}
	return errors.Join(errs...)
}
