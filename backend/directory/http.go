package directory

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"mailferry/backend"
)

// HTTPOptions configure a directory behind nginx's auth_http protocol.
type HTTPOptions struct {
	Name string
	// URL is asked by GET; http:// or https://.
	URL string
	// TLSConfig verifies an https:// server; nil: system roots.
	TLSConfig *tls.Config
	// Header and HeaderValue are sent along, as nginx's auth_http_header.
	Header      string
	HeaderValue backend.Secret
	// DefaultStore is the store of users for whom no server is named.
	DefaultStore string
	// CheckPassword: passwords are checked by the server (Auth-Method: plain).
	CheckPassword bool
	Timeout       time.Duration // of one request; 0: 3 s
	Connections   int           // kept, and most at a time; 0: 8
	Dial          func(ctx context.Context, network, address string) (net.Conn, error)
	Logger        *slog.Logger
}

// HTTP is the driver for auth_http. A lookup is a request with Auth-Method:
// none, which the server must answer with the route and without a password, as
// it does for nginx's SMTP without authentication; a password is a request with
// Auth-Method: plain. An answer that is not to be understood tells nothing.
type HTTP struct {
	o      HTTPOptions
	client *http.Client
	tr     *http.Transport
	slots  chan struct{}
}

// maxAnswer bounds header and body of an answer.
const maxAnswer = 16 << 10

// NewHTTP checks the options; it does not connect.
func NewHTTP(o HTTPOptions) (*HTTP, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, backend.Errorf(backend.KindInvalid, "", "directory %s: %q is not an address: want http:// or https://", o.Name, o.URL)
	}
	o.Timeout, o.Connections = cmp.Or(o.Timeout, 3*time.Second), cmp.Or(o.Connections, 8)
	if o.Dial == nil {
		o.Dial = (&net.Dialer{Timeout: 2 * time.Second}).DialContext
	}
	tr := &http.Transport{DialContext: o.Dial, TLSClientConfig: o.TLSConfig, TLSHandshakeTimeout: 2 * time.Second,
		MaxIdleConnsPerHost: o.Connections, MaxConnsPerHost: o.Connections, IdleConnTimeout: idleLimit,
		MaxResponseHeaderBytes: maxAnswer, DisableCompression: true}
	return &HTTP{o: o, tr: tr, slots: make(chan struct{}, o.Connections), client: &http.Client{Transport: tr,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

// Name is the configured name.
func (d *HTTP) Name() string { return d.o.Name }

// Close ends idle connections.
func (d *HTTP) Close() error {
	d.tr.CloseIdleConnections()
	return nil
}

// Lookup implements backend.Directory.
func (d *HTTP) Lookup(ctx context.Context, name string) (backend.Entry, error) {
	if !validName(name) {
		return backend.Entry{}, notFound(d.o.Name, name)
	}
	h, err := d.ask(ctx, "none", name, "")
	if err != nil {
		return backend.Entry{}, err
	}
	switch status := h.Get("Auth-Status"); {
	case strings.EqualFold(status, "WAIT"):
		return backend.Entry{}, d.cannotTell("it asks to wait for %s s", h.Get("Auth-Wait"))
	case temporary(h):
		return backend.Entry{}, d.cannotTell("it says %q", status)
	case !strings.EqualFold(status, "OK"):
		return backend.Entry{}, backend.Errorf(backend.KindNotFound, "", "directory %s: no user %q: it says %q", d.o.Name, name, status)
	}
	return d.entry(name, h)
}

func (d *HTTP) entry(name string, h http.Header) (backend.Entry, error) {
	e := backend.Entry{User: name, Directory: d.o.Name, ID: name, CheckPassword: d.o.CheckPassword,
		Store: cmp.Or(h.Get("Auth-Server"), d.o.DefaultStore)}
	if user := h.Get("Auth-User"); user != "" {
		decoded, err := url.PathUnescape(user)
		if err != nil {
			return backend.Entry{}, d.refuse("Auth-User", user)
		}
		e.User = decoded
	}
	if !validName(e.User) {
		return backend.Entry{}, d.refuse("Auth-User", e.User)
	}
	if e.Store != "" && !validName(e.Store) {
		return backend.Entry{}, d.refuse("Auth-Server", e.Store)
	}
	if port := h.Get("Auth-Port"); port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return backend.Entry{}, d.refuse("Auth-Port", port)
		}
		e.Ports = map[backend.Protocol]int{backend.IMAP: int(n)}
	}
	return e, nil
}

func (d *HTTP) refuse(header, value string) error {
	return backend.Errorf(backend.KindConflict, "", "directory %s: %s %q is not usable", d.o.Name, header, value)
}

func (d *HTTP) cannotTell(format string, args ...any) error {
	return backend.Errorf(backend.KindUnavailable, "", "directory %s: %w", d.o.Name, fmt.Errorf(format, args...))
}

// temporary: an SMTP code or a POP3 response code that says "later".
func temporary(h http.Header) bool {
	code := h.Get("Auth-Error-Code")
	return strings.HasPrefix(code, "4") || strings.Contains(h.Get("Auth-Status"), "[SYS/TEMP]") || strings.Contains(h.Get("Auth-Status"), "[UNAVAILABLE]")
}

// Authenticate implements backend.Directory.
func (d *HTTP) Authenticate(ctx context.Context, e backend.Entry, password backend.Secret) error {
	if password == "" || !validName(e.ID) {
		return wrongPassword(d.o.Name, e.User)
	}
	h, err := d.ask(ctx, "plain", e.ID, password)
	if err != nil {
		return err
	}
	status := h.Get("Auth-Status")
	switch {
	case strings.EqualFold(status, "OK"):
		return nil
	case temporary(h):
		return d.cannotTell("it says %q", status)
	}
	return refused(d.o.Name, e.User, fmt.Errorf("it says %q, wait %q", status, h.Get("Auth-Wait")))
}

// AuthenticateNobody does the work of a failing Authenticate.
func (d *HTTP) AuthenticateNobody(ctx context.Context, password backend.Secret) {
	if d.o.CheckPassword && password != "" {
		_ = d.Authenticate(ctx, backend.Entry{ID: "mailferry-nobody"}, password)
	}
}

// ask sends one request. Names and passwords are percent-escaped, as nginx
// does, so that no header can be made of them.
func (d *HTTP) ask(ctx context.Context, method, user string, password backend.Secret) (http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, min(d.o.Timeout, lookupLimit))
	defer cancel()
	select {
	case d.slots <- struct{}{}:
		defer func() { <-d.slots }()
	case <-ctx.Done():
		return nil, d.cannotTell("all connections are busy: %w", ctx.Err())
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.o.URL, nil)
	if err != nil {
		return nil, d.cannotTell("%w", err)
	}
	p := callerOf(ctx)
	req.Header = http.Header{"Auth-Method": {method}, "Auth-User": {escape(user)}, "Auth-Protocol": {p.protocol()},
		"Auth-Login-Attempt": {strconv.Itoa(max(1, p.Attempt))}, "Client-Ip": {p.address()}}
	if method == "plain" {
		req.Header.Set("Auth-Pass", escape(password.Reveal()))
	}
	if d.o.Header != "" {
		req.Header.Set(d.o.Header, d.o.HeaderValue.Reveal())
	}
	res, err := d.client.Do(req)
	if err != nil {
		trace(ctx, asked(d, method, user), "%v", err)
		return nil, d.cannotTell("%w", err)
	}
	d.traceAnswer(ctx, asked(d, method, user), res)
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, maxAnswer) // a connection is used again when all was read
	if res.StatusCode != http.StatusOK || res.Header.Get("Auth-Status") == "" {
		return nil, d.cannotTell("%s, Auth-Status %q", res.Status, res.Header.Get("Auth-Status"))
	}
	return res.Header, nil
}

// escape is nginx's way of escaping in these headers: what is not plainly
// printable, and % itself.
func escape(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '%' {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
