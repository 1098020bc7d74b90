package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"mailferry/internal/config"
)

// acmeManager obtains and renews certificates. close ends it.
type acmeManager struct {
	conf   config.ACME
	magic  *certmagic.Config
	cache  *certmagic.Cache
	cancel context.CancelFunc
}

// openACME begins to obtain certificates; it does not wait for them.
func (a *App) openACME(context.Context) error {
	if _, err := acmeRoots(a.conf.TLS.ACME); err != nil {
		return err
	}
	a.reloadACME(a.conf.TLS.ACME)
	a.life.onClose("ACME", func() error {
		a.reloadACME(nil)
		return nil
	})
	return nil
}

// reloadACME replaces the manager when the settings have changed.
func (a *App) reloadACME(c *config.ACME) {
	old := a.certs.acme.Load()
	switch {
	case old == nil && c == nil, old != nil && c != nil && reflect.DeepEqual(old.conf, *c):
		return
	case c == nil:
		a.certs.acme.Store(nil)
	default:
		m, err := newACME(*c, a.path(dirTLS), a.log.With("part", "tls"))
		if err != nil {
			a.log.Error("certificates are not obtained", "error", err)
			return
		}
		a.certs.acme.Store(m)
	}
	if old != nil {
		old.close()
	}
}

// acmeRoots are the authorities that may have signed the directory's own
// certificate; nil: those of the system.
func acmeRoots(c *config.ACME) (*x509.CertPool, error) {
	if c == nil || c.CA == "" {
		return nil, nil
	}
	text, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, fmt.Errorf("tls.acme.ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("tls.acme.ca: %s: no certificate in it", c.CA)
	}
	return pool, nil
}

func newACME(c config.ACME, dir string, log *slog.Logger) (*acmeManager, error) {
	roots, err := acmeRoots(&c)
	if err != nil {
		return nil, err
	}
	bridge := zap.New(&zapToSlog{log: log})
	m := &acmeManager{conf: c}
	m.cache = certmagic.NewCache(certmagic.CacheOptions{Logger: bridge,
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return m.magic, nil }})
	m.magic = certmagic.New(m.cache, certmagic.Config{Storage: &certmagic.FileStorage{Path: dir + "/acme"}, Logger: bridge})
	m.magic.Issuers = []certmagic.Issuer{certmagic.NewACMEIssuer(m.magic, certmagic.ACMEIssuer{
		CA: c.Directory, Email: c.Email, Agreed: true, TrustedRoots: roots, ListenHost: c.Listen, AltHTTPPort: c.HTTPPort, AltTLSALPNPort: c.TLSPort,
		DisableHTTPChallenge: c.HTTPPort == 0, DisableTLSALPNChallenge: c.TLSPort == 0, Logger: bridge})}
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	if err := m.magic.ManageAsync(ctx, c.Names); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

// get is the certificate for a client, nil while there is none. Challenges by
// TLS are answered here too, where the authority is led to one of our listeners.
func (m *acmeManager) get(hello *tls.ClientHelloInfo) *tls.Certificate {
	challenge := slices.Contains(hello.SupportedProtos, acmez.ACMETLS1Protocol)
	if !challenge && !slices.ContainsFunc(m.conf.Names, func(n string) bool { return strings.EqualFold(n, hello.ServerName) }) {
		return nil
	}
	cert, err := m.magic.GetCertificate(hello)
	if err != nil || !challenge && hello.SupportsCertificate(cert) != nil {
		return nil
	}
	return cert
}

func (m *acmeManager) close() {
	m.cancel()
	m.cache.Stop()
}

// zapToSlog has a library that logs by zap log by slog.
type zapToSlog struct {
	log    *slog.Logger
	fields []zapcore.Field
}

func slogLevel(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return slog.LevelError
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	case l == zapcore.InfoLevel:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

// Enabled implements zapcore.Core.
func (z *zapToSlog) Enabled(l zapcore.Level) bool {
	return z.log.Enabled(context.Background(), slogLevel(l))
}

// With implements zapcore.Core.
func (z *zapToSlog) With(f []zapcore.Field) zapcore.Core {
	return &zapToSlog{z.log, append(slices.Clip(z.fields), f...)}
}

// Check implements zapcore.Core.
func (z *zapToSlog) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if z.Enabled(e.Level) {
		return c.AddCore(e, z)
	}
	return c
}

// Write implements zapcore.Core.
func (z *zapToSlog) Write(e zapcore.Entry, fields []zapcore.Field) error {
	values := zapcore.NewMapObjectEncoder()
	for _, f := range append(slices.Clip(z.fields), fields...) {
		f.AddTo(values)
	}
	var args []any
	for k, v := range values.Fields {
		args = append(args, k, v)
	}
	z.log.Log(context.Background(), slogLevel(e.Level), e.Message, args...)
	return nil
}

// Sync implements zapcore.Core.
func (z *zapToSlog) Sync() error { return nil }
