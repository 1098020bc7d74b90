package directory

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mailferry/backend"
	"mailferry/internal/mailtest"
)

// script answers as sites' own auth_http scripts do.
func script(w http.ResponseWriter, r *http.Request) {
	user, _ := url.PathUnescape(r.Header.Get("Auth-User"))
	pass, _ := url.PathUnescape(r.Header.Get("Auth-Pass"))
	stores := map[string]string{"anna": "old1", "otto": "", "bernd": ""}
	store, known := stores[user]
	h := w.Header()
	switch {
	case !known || r.Header.Get("Auth-Method") == "plain" && pass != "secret":
		h.Set("Auth-Status", "Invalid login or password")
		h.Set("Auth-Wait", "3")
		return
	case store != "":
		h.Set("Auth-Server", store)
		h.Set("Auth-Port", "1143")
	}
	h.Set("Auth-Status", "OK")
}

func openHTTP(t testing.TB, handler http.HandlerFunc, change func(*HTTPOptions)) *HTTP {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	o := HTTPOptions{Name: "web", URL: s.URL + "/auth", CheckPassword: true, Timeout: time.Second}
	if change != nil {
		change(&o)
	}
	d, err := NewHTTP(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	testDirectory(t, func(t *testing.T) subject {
		g := &gate{}
		d := openHTTP(t, script, func(o *HTTPOptions) { o.Dial = g.dial })
		return subject{dir: d, noDisabled: true, away: g.shut}
	})
}

func TestHTTPRequest(t *testing.T) {
	t.Parallel()
	var last http.Header
	var dials atomic.Int32
	d := openHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		last = r.Header.Clone()
		w.Header().Set("Auth-Status", "OK")
		w.Header().Set("Auth-Server", "10.0.0.5")
		w.Header().Set("Auth-User", "an%20na")
	}, func(o *HTTPOptions) {
		o.Header, o.HeaderValue = "X-Auth-Key", "key"
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			dials.Add(1)
			return new(net.Dialer).DialContext(ctx, network, address)
		}
	})
	e, err := d.Lookup(t.Context(), "änna b%")
	if err != nil || e.User != "an na" || e.Store != "10.0.0.5" || last.Get("Auth-User") != "%C3%A4nna%20b%25" || last.Get("Auth-Method") != "none" {
		t.Errorf("%+v, %v, %v", e, err, last)
	}
	ctx := WithCaller(t.Context(), Caller{Protocol: backend.POP3, Address: netip.MustParseAddr("::ffff:192.0.2.7"), Attempt: 2})
	if err := d.Authenticate(ctx, e, "a\r\nX: y\x00"); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]string{"Auth-Pass": "a%0D%0AX:%20y%00", "Auth-Protocol": "pop3", "Client-IP": "192.0.2.7",
		"Auth-Login-Attempt": "2", "Auth-Method": "plain", "X-Auth-Key": "key", "X": "", "Auth-User": "%C3%A4nna%20b%25"} {
		if last.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, last.Get(name), want)
		}
	}
	if n := dials.Load(); n != 1 {
		t.Errorf("%d connections for two requests", n)
	}
}

func TestHTTPAnswers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		code   int
		header string
		lookup backend.Kind
		auth   backend.Kind
	}{
		{"wait", 200, "Auth-Status: WAIT\nAuth-Wait: 5", backend.KindUnavailable, backend.KindAuthentication},
		{"temporary", 200, "Auth-Status: later\nAuth-Error-Code: 451 4.3.0", backend.KindUnavailable, backend.KindUnavailable},
		{"code 500", 500, "Auth-Status: OK", backend.KindUnavailable, backend.KindUnavailable},
		{"redirect", 302, "Auth-Status: OK\nLocation: /", backend.KindUnavailable, backend.KindUnavailable},
		{"nothing", 200, "X: y", backend.KindUnavailable, backend.KindUnavailable},
		{"no such user", 200, "Auth-Status: Invalid login", backend.KindNotFound, backend.KindAuthentication},
		{"port", 200, "Auth-Status: OK\nAuth-Port: 0", backend.KindConflict, 0},
		{"user", 200, "Auth-Status: OK\nAuth-User: a%0d%0ab", backend.KindConflict, 0},
		{"too long", 200, "Auth-Status: OK\nX: " + strings.Repeat("x", 2*maxAnswer), backend.KindUnavailable, backend.KindUnavailable},
	} {
		d := openHTTP(t, func(w http.ResponseWriter, _ *http.Request) {
			for _, line := range strings.Split(c.header, "\n") {
				k, v, _ := strings.Cut(line, ": ")
				w.Header().Set(k, v)
			}
			w.WriteHeader(c.code)
		}, nil)
		if e, err := d.Lookup(t.Context(), "anna"); !backend.IsKind(err, c.lookup) {
			t.Errorf("%s: %+v, %v", c.name, e, err)
		}
		err := d.Authenticate(t.Context(), backend.Entry{ID: "anna"}, "secret")
		if c.auth == 0 && err != nil || c.auth != 0 && !backend.IsKind(err, c.auth) {
			t.Errorf("%s: password: %v", c.name, err)
		}
	}
}

func TestHTTPMute(t *testing.T) {
	t.Parallel()
	g := &gate{state: "mute"}
	d := openHTTP(t, script, func(o *HTTPOptions) { o.Dial, o.Timeout, o.Connections = g.dial, 100*time.Millisecond, 1 })
	begin := time.Now()
	for range 3 {
		if _, err := d.Lookup(t.Context(), "anna"); !backend.IsKind(err, backend.KindUnavailable) {
			t.Error(err)
		}
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestHTTPInjection(t *testing.T) {
	t.Parallel()
	d := openHTTP(t, script, nil)
	rounds := 3_000
	if mailtest.Soaking() {
		rounds = 100_000
	}
	throwNames(t, d, rounds, func(name string, e backend.Entry) bool { return name == e.User })
}
