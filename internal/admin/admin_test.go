package admin

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"mailferry/backend"
)

// table is Users in memory.
type table map[string]NewUser

func (t table) AddUser(_ context.Context, u NewUser) (User, error) {
	if _, ok := t[u.Name]; ok {
		return User{}, WithHint(backend.NewError(backend.KindExists, "taken"), "choose another name")
	}
	t[u.Name] = u
	return User{Name: u.Name, Password: u.Password != ""}, nil
}

func (t table) User(_ context.Context, name string) (User, error) {
	u, ok := t[name]
	if !ok {
		return User{}, backend.NewError(backend.KindNotFound, "no such user")
	}
	return User{Name: u.Name, Password: u.Password != ""}, nil
}

func (t table) ListUsers(context.Context) (users []User, err error) {
	for name := range t {
		users = append(users, User{Name: name})
	}
	return users, nil
}

func (t table) SetPassword(_ context.Context, name string, p backend.Secret) error {
	t[name] = NewUser{Name: name, Password: p.Reveal()}
	return nil
}

func (t table) SetDisabled(context.Context, string, bool) error { return nil }

func (t table) DeleteUser(_ context.Context, name string) error {
	delete(t, name)
	return nil
}

// moves is Migrations with one batch of three states.
type moves struct{ Migrations }

func (moves) Watch(_ context.Context, id string, fn func(Batch) error) error {
	if id == "absent" {
		return backend.NewError(backend.KindNotFound, "no such batch")
	}
	for i, state := range []string{"copying", "flipped"} {
		if err := fn(Batch{ID: "b1", Done: i == 1, Moves: []Move{{User: "anna", State: state}}}); err != nil {
			return err
		}
	}
	return nil
}

func (moves) Report(_ context.Context, user string) ([]byte, error) {
	return []byte(`{"user":"` + user + `"}`), nil
}

func service(t *testing.T) *Service {
	t.Helper()
	return &Service{
		Health: func(context.Context) Health { return Health{Node: "node1"} },
		Users:  table{}, Migrations: moves{},
		Authenticate: func(_ context.Context, user string, p backend.Secret) error {
			if user != "admin" || p != "right" {
				return backend.NewError(backend.KindAuthentication, "wrong")
			}
			return nil
		},
		Metrics: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler),
	}
}

func client(t *testing.T, s *Service) *Client {
	t.Helper()
	dir := t.TempDir()
	l, err := net.Listen("unix", SocketPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: s.SocketHandler()}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	c := NewClient(dir)
	t.Cleanup(func() { c.Close(); server.Close(); <-done })
	return c
}

func TestUsersOverTheSocket(t *testing.T) {
	ctx, c := t.Context(), client(t, service(t))
	if got, err := c.ListUsers(ctx); err != nil || got == nil || len(got) != 0 {
		t.Errorf("empty listing: %v %v", got, err)
	}
	name := "a/b c%?@example.org" // everything that a path would take for itself
	if _, err := c.AddUser(ctx, NewUser{Name: name, Password: "x"}); err != nil {
		t.Fatal(err)
	}
	got, err := c.User(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(User{Name: name, Password: true}, got); diff != "" {
		t.Error(diff)
	}
	if err := c.DeleteUser(ctx, name); err != nil {
		t.Error(err)
	}
	if _, err := c.User(ctx, name); !backend.IsKind(err, backend.KindNotFound) {
		t.Errorf("deleted: %v", err)
	}
}

func TestErrorsKeepKindTextAndHint(t *testing.T) {
	ctx, c := t.Context(), client(t, service(t))
	_, _ = c.AddUser(ctx, NewUser{Name: "anna"})
	_, err := c.AddUser(ctx, NewUser{Name: "anna"})
	if !backend.IsKind(err, backend.KindExists) || HintOf(err) != "choose another name" || err.Error() != "taken" {
		t.Errorf("%v, kind %v, hint %q", err, backend.KindOf(err), HintOf(err))
	}
	if _, err := c.Sessions(ctx, SessionFilter{}); !backend.IsKind(err, backend.KindUnavailable) {
		t.Errorf("a role that the node has not: %v", err)
	}
}

func TestWatchStreams(t *testing.T) {
	ctx, m := t.Context(), client(t, service(t)).Migrations()
	var states []string
	err := m.Watch(ctx, "", func(b Batch) error {
		states = append(states, b.Moves[0].State)
		return nil
	})
	if diff := cmp.Diff([]string{"copying", "flipped"}, states); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	if err := m.Watch(ctx, "absent", nil); !backend.IsKind(err, backend.KindNotFound) {
		t.Errorf("absent batch: %v", err)
	}
	text, err := m.Report(ctx, "anna")
	if err != nil || !json.Valid(text) {
		t.Errorf("report %q %v", text, err)
	}
}

func TestNoNode(t *testing.T) {
	_, err := NewClient(t.TempDir()).Health(t.Context())
	if !backend.IsKind(err, backend.KindUnavailable) || !strings.Contains(HintOf(err), "mailferry serve") {
		t.Errorf("%v, hint %q", err, HintOf(err))
	}
}

func TestHTTPSNeedsAnAdmin(t *testing.T) {
	server := httptest.NewTLSServer(service(t).HTTPSHandler())
	defer server.Close()
	tests := []struct {
		path, password string
		want           int
	}{
		{"/healthz", "", 200},
		{"/v1/users", "", 401},
		{"/v1/users", "wrong", 401},
		{"/v1/users", "right", 200},
		{"/metrics", "", 401},
		{"/metrics", "right", 200},
	}
	for _, tt := range tests {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if tt.password != "" {
			req.SetBasicAuth("admin", tt.password)
		}
		resp, err := server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tt.want {
			t.Errorf("%s with %q: %d, want %d", tt.path, tt.password, resp.StatusCode, tt.want)
		}
		if resp.Header.Get("Strict-Transport-Security") == "" {
			t.Errorf("%s with %q: browsers are not told to stay with TLS", tt.path, tt.password)
		}
	}
}

func TestEveryKindCrosses(t *testing.T) {
	for _, k := range kinds {
		if got := kindNamed(k.String()); got != k {
			t.Errorf("%v becomes %v", k, got)
		}
	}
	if !errors.Is(WithHint(context.Canceled, "x"), context.Canceled) {
		t.Error("a hint hides the error")
	}
}
