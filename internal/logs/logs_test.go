package logs

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// text is a place to write to.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (w *text) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (w *text) take() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.b.Reset()
	return w.b.String()
}

func open2(t *testing.T, o Options) *Log {
	t.Helper()
	l, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// TestLevelsOfServices: the protocol counts before the part, and loggers that
// are in use follow a reload.
func TestLevelsOfServices(t *testing.T) {
	var all, imap text
	l := open2(t, Options{Level: slog.LevelInfo, Levels: map[string]slog.Level{"imap": slog.LevelDebug, "directory": slog.LevelWarn},
		Outputs: []Output{{Writer: &all}, {Writer: &imap, JSON: true, Services: []string{"imap"}}}})
	root := l.Logger().With("node", "n1")
	session := root.With("part", "proxy").With("protocol", "imap", "session", "s1").WithGroup("more").With("part", "other")
	directory := root.With("part", "directory")
	root.Debug("no")
	session.Debug("yes", "k", "v")
	directory.Info("no")
	directory.Warn("yes")
	if got := all.take(); strings.Contains(got, "msg=no") || strings.Count(got, "msg=yes") != 2 || !strings.Contains(got, "node=n1 part=proxy protocol=imap session=s1 more.part=other more.k=v") {
		t.Errorf("%s", got)
	}
	var one struct{ Session, Msg string }
	if got := imap.take(); json.Unmarshal([]byte(got), &one) != nil || one.Session != "s1" || one.Msg != "yes" {
		t.Errorf("%s", got)
	}
	if err := l.Reload(Options{Level: slog.LevelError, Outputs: []Output{{Writer: &all, JSON: true}}}); err != nil {
		t.Fatal(err)
	}
	session.Warn("no")
	session.Error("yes")
	if got := all.take(); json.Unmarshal([]byte(got), &one) != nil || imap.take() != "" {
		t.Errorf("%s", got)
	}
	if err := l.Reload(Options{Outputs: []Output{{File: &File{Path: filepath.Join(t.TempDir(), "d", "\x00")}}}}); err == nil {
		t.Error("a file that cannot be is taken")
	}
	session.Error("still")
	if !strings.Contains(all.take(), "still") {
		t.Error("a failed reload changed something")
	}
}

// TestFiles: an output of one service, rotation, and what is old is deleted.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "imap.log")
	stamp := func(age time.Duration) string {
		return filepath.Join(dir, "imap-"+time.Now().Add(-age).Format("2006-01-02T15-04-05.000")+"-time.log")
	}
	old, young := stamp(8*24*time.Hour), stamp(6*24*time.Hour)
	for _, f := range []string{old, young} {
		if err := os.WriteFile(f, []byte("x\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l := open2(t, Options{Outputs: []Output{{File: &File{Path: path, MaxSize: 1 << 20, Keep: 7 * 24 * time.Hour}, Services: []string{"imap"}}}})
	imap := l.Logger().With("protocol", "imap")
	l.Logger().With("protocol", "pop3").Info("not here")
	line := strings.Repeat("x", 10_000)
	for range 120 { // more than a MiB
		imap.Info(line)
	}
	if err := l.Close(); err != nil { // ends the deletion
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 3 {
		t.Errorf("%q %v", files, err)
	}
	if _, err := os.Stat(old); err == nil {
		t.Error("a file older than keep is there")
	}
	if _, err := os.Stat(young); err != nil {
		t.Error("a file younger than keep is gone")
	}
	b, err := os.ReadFile(path)
	if err != nil || bytes.Contains(b, []byte("not here")) || !bytes.Contains(b, []byte("xxx")) {
		t.Errorf("%d octets, %v", len(b), err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm()&0o007 != 0 {
		t.Errorf("%v %v", st.Mode(), err)
	}
}

// rfc5424 is what a collector takes.
var rfc5424 = regexp.MustCompile(`^<(\d+)>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z \S+ mailferry \d+ (\S+) - (.*)$`)

// TestSyslog over each kind of transport.
func TestSyslog(t *testing.T) {
	for _, network := range []string{"unix", "udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			address, next := collector(t, network)
			l := open2(t, Options{Level: slog.LevelDebug, Outputs: []Output{{JSON: network == "tcp", Syslog: &Syslog{Address: address, Facility: "local3"}}}})
			log := l.Logger().With("part", "proxy").With("protocol", "imap", "session", "s1")
			log.Warn("login\ndenied", "user", "anna")
			m := rfc5424.FindStringSubmatch(next())
			if m == nil || m[1] != "156" || m[2] != "imap" || !strings.Contains(m[3], "anna") || !strings.Contains(m[3], "s1") {
				t.Errorf("%q", m)
			}
			log.Debug("second")
			if m := rfc5424.FindStringSubmatch(next()); m == nil || m[1] != "159" || !strings.Contains(m[3], "second") {
				t.Errorf("%q", m)
			}
		})
	}
	for _, address := range []string{"", "dev/log", "unix://", "udp://host", "http://host:1", "tcp://:601"} {
		if _, err := New(Options{Outputs: []Output{{Syslog: &Syslog{Address: address}}}}); err == nil {
			t.Errorf("%q is taken", address)
		}
	}
}

// collector receives messages; next returns one.
func collector(t *testing.T, network string) (address string, next func() string) {
	t.Helper()
	if network == "tcp" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		var r *bufio.Reader
		return "tcp://" + l.Addr().String(), func() string {
			if r == nil {
				c, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
				r = bufio.NewReader(c)
			}
			var n int
			if _, err := fmt.Fscanf(r, "%d ", &n); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, n)
			if _, err := io.ReadFull(r, b); err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
	}
	path := filepath.Join(t.TempDir(), "log")
	c, err := net.ListenPacket(map[string]string{"unix": "unixgram", "udp": "udp"}[network], map[string]string{"unix": path, "udp": "127.0.0.1:0"}[network])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	address = "unix://" + path
	if network == "udp" {
		address = "udp://" + c.LocalAddr().String()
	}
	return address, func() string {
		b := make([]byte, 1<<16)
		n, _, err := c.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
}

// TestSyslogAway: a collector that is away delays nobody, and a close ends.
func TestSyslogAway(t *testing.T) {
	l := open2(t, Options{Outputs: []Output{{Syslog: &Syslog{Address: "unix://" + filepath.Join(t.TempDir(), "absent")}}}})
	log := l.Logger()
	for range 3 * syslogQueue {
		log.InfoContext(context.Background(), "x")
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
