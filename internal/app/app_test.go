package app

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"mailferry/internal/admin"
	"mailferry/internal/config"
)

// certmagic's locks end some seconds late, and its rate limiters, one for each
// account, never.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh"),
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.(*RingBufferRateLimiter).loop"))
}

// anyPort has a node listen where there is room.
const anyPort = `listen: {imap: ["127.0.0.1:0"], imaps: ["127.0.0.1:0"], lmtp: ["127.0.0.1:0"], submission: ["127.0.0.1:0"],
  submissions: ["127.0.0.1:0"], pop3: ["127.0.0.1:0"], pop3s: ["127.0.0.1:0"], admin: ["127.0.0.1:0"]}
`

// setup is a node to be: its configuration can be changed for a reload.
type setup struct {
	file   string
	data   string
	banner bytes.Buffer
	log    syncBuffer
}

func newSetup(t *testing.T, text string) *setup {
	t.Helper()
	dir := t.TempDir()
	s := &setup{file: filepath.Join(dir, "mailferry.yaml"), data: filepath.Join(dir, "data")}
	s.write(t, text)
	return s
}

func (s *setup) write(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(s.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s *setup) options() Options {
	return Options{Banner: &s.banner, Log: &s.log, Load: func() (*config.Config, error) {
		return config.Load(config.Options{File: s.file, Data: s.data, LookupEnv: func(string) (string, bool) { return "", false }})
	}}
}

// start runs a node until the test ends.
func (s *setup) start(t *testing.T) *App {
	t.Helper()
	a, err := New(t.Context(), s.options())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return a
}

// syncBuffer is a buffer for several goroutines.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestTwoNodesInOneProcess(t *testing.T) {
	one, two := newSetup(t, anyPort), newSetup(t, anyPort)
	a, b := one.start(t), two.start(t)
	if a.Addr("imap") == "" || a.Addr("imap") == b.Addr("imap") {
		t.Errorf("addresses %q and %q", a.Addr("imap"), b.Addr("imap"))
	}
	for _, s := range []*setup{one, two} {
		c := admin.NewClient(s.data)
		defer c.Close()
		h, err := c.Health(t.Context())
		if err != nil || len(h.Problems) > 0 {
			t.Errorf("health %+v %v", h, err)
		}
	}
}

func TestFirstStartShowsPasswordsOnce(t *testing.T) {
	s := newSetup(t, anyPort)
	a := s.start(t)
	first := s.banner.String()
	for _, want := range []string{"user@localhost", "curl --cacert", "mutt", "openssl s_client"} {
		if !strings.Contains(first, want) {
			t.Errorf("banner lacks %q:\n%s", want, first)
		}
	}
	secret, err := os.ReadFile(a.path(fileSecret))
	if err != nil {
		t.Fatal(err)
	}
	name, password, _ := strings.Cut(strings.TrimSpace(string(secret)), ":")
	if info, err := os.Stat(a.path(fileSecret)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the admin's secret: %v %v", info.Mode(), err)
	}
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	s.banner.Reset()
	a = s.start(t)
	if strings.Contains(s.banner.String(), password) {
		t.Error("the second start shows a password")
	}
	if err := a.users.authenticateAdmin(t.Context(), name, "wrong"); err == nil {
		t.Error("a wrong password is taken")
	}
	if err := a.authenticateAdmin(t.Context(), name, config.Secret(password)); err != nil {
		t.Errorf("the admin after a restart: %v", err)
	}
}

// TestCrashInTheFirstStart: passwords that were never shown are made anew.
func TestCrashInTheFirstStart(t *testing.T) {
	s := newSetup(t, anyPort)
	a := s.start(t)
	before := s.banner.String()
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(a.path(fileFirst), nil, 0o600); err != nil { // as a crash leaves it
		t.Fatal(err)
	}
	s.banner.Reset()
	s.start(t)
	if after := s.banner.String(); !strings.Contains(after, "shown only now") || after == before {
		t.Errorf("banner after the crash:\n%s", after)
	}
	if _, err := os.Stat(a.path(fileFirst)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("mark of the first start: %v", err)
	}
}

func TestFailedNewLeavesNothingOpen(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	s := newSetup(t, strings.Replace(anyPort, `admin: ["127.0.0.1:0"]`, `admin: ["`+taken.Addr().String()+`"]`, 1))
	if _, err := New(t.Context(), s.options()); err == nil || !strings.Contains(err.Error(), "listen.admin") {
		t.Fatalf("error %v", err)
	}
	s.write(t, anyPort) // the lock and the ports are free again
	s.start(t)
}

func TestOneNodeOnADirectory(t *testing.T) {
	s := newSetup(t, anyPort)
	s.start(t)
	_, err := New(t.Context(), s.options())
	if err == nil || !strings.Contains(err.Error(), "another node runs on") || admin.HintOf(err) == "" {
		t.Errorf("error %v, hint %q", err, admin.HintOf(err))
	}
}

func TestStopIsIdempotent(t *testing.T) {
	a := newSetup(t, anyPort).start(t)
	for range 2 {
		if err := a.Stop(); err != nil {
			t.Error(err)
		}
	}
}

func TestReload(t *testing.T) {
	ctx := context.Background()
	s := newSetup(t, anyPort)
	a := s.start(t)
	before := a.dirs.current
	certs := a.certs.current.Load()

	s.write(t, anyPort+"log: {level: debug}\ntls: {certificates: [{cert: absent.pem, key: absent.key}]}\n")
	if err := a.Reload(); err == nil {
		t.Error("a certificate that is not there is taken")
	}
	s.write(t, anyPort+"stors: []\n")
	if err := a.Reload(); err == nil {
		t.Error("a configuration with a mistake is taken")
	}
	if a.dirs.current != before || a.certs.current.Load() != certs || a.log.Enabled(ctx, slog.LevelDebug) {
		t.Error("a failed reload changed something")
	}

	users := filepath.Join(filepath.Dir(s.file), "users")
	if err := os.WriteFile(users, []byte("carla:{PLAIN}x:home\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.write(t, anyPort+"log: {level: debug}\nnode: other\ntls: {session_tickets: false}\ndirectories: [{name: local, type: local}, {name: more, type: file, path: users, store: home}]\n")
	if err := a.Reload(); err != nil {
		t.Fatal(err)
	}
	if e, err := a.dirs.Lookup(ctx, "carla"); err != nil || e.Directory != "more" {
		t.Errorf("user of the new directory: %+v %v", e, err)
	}
	if !a.log.Enabled(ctx, slog.LevelDebug) {
		t.Error("the level is not debug")
	}
	if !strings.Contains(s.log.String(), `needs_restart="[node tls.session_tickets]"`) {
		t.Errorf("log does not say what needs a restart:\n%s", s.log.String())
	}
}

func TestPlacementsOverTheEngine(t *testing.T) {
	s := newSetup(t, anyPort)
	a := s.start(t)
	for e := range uint64(3) {
		if err := a.places.Swap(t.Context(), placed("anna", e+1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	a = s.start(t)
	if p, ok, err := a.places.Placement(t.Context(), "anna"); err != nil || !ok || p.Epoch != 3 {
		t.Errorf("after a restart: %+v %v %v", p, ok, err)
	}
	if err := a.places.Swap(t.Context(), placed("anna", 3)); err == nil {
		t.Error("an old epoch is taken")
	}
}
