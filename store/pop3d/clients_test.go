package pop3d_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mailferry/internal/mailtest"
	"mailferry/store/pop3d"
)

// TestRealClients lets curl, fetchmail and getmail work with the server.
func TestRealClients(t *testing.T) {
	if testing.Short() {
		t.Skip("starts other programs")
	}
	w := newWorld(t, func(o *pop3d.Options) { o.ClearLogin = true })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- w.server.Serve(l) }()
	t.Cleanup(func() {
		l.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	w.file(mail("1"), mail("2"), mail("3"))
	host, port, _ := net.SplitHostPort(l.Addr().String())
	t.Run("curl", func(t *testing.T) { testCurl(t, w, l.Addr().String()) })
	t.Run("getmail", func(t *testing.T) { testGetmail(t, w, host, port) })
	t.Run("fetchmail", func(t *testing.T) { testFetchmail(t, w, host, port) })
}

func testCurl(t *testing.T, w *world, addr string) {
	mailtest.Require(t, "curl")
	curl := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("curl", append([]string{"-sS", "--max-time", "20", "--user", "anna:secret"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("curl %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	if out := curl("pop3://" + addr + "/"); out != "1 60\r\n2 60\r\n3 60\r\n" {
		t.Errorf("curl lists %q", out)
	}
	if out := curl("pop3://" + addr + "/2"); out != mail("2") {
		t.Errorf("curl fetches %q", out)
	}
	if out := curl("--sasl-ir", "--login-options", "AUTH=PLAIN", "pop3://"+addr+"/3"); out != mail("3") {
		t.Errorf("curl fetches %q", out)
	}
	curl("-X", "DELE", "-I", "pop3://"+addr+"/1")
	w.waitFree()
	if d, err := w.account().Maildrop(t.Context()); err != nil || len(d.Messages) != 2 {
		t.Errorf("after curl's DELE: %+v, %v", d, err)
	}
}

// testGetmail fetches twice: the second time nothing is new.
func testGetmail(t *testing.T, w *world, host, port string) {
	g := mailtest.NewGetmail(t, "POP3", mailtest.Account{Addr: net.JoinHostPort(host, port), User: "anna", Password: "secret"}, false)
	for _, want := range []int{2, 2, 3} {
		if want == 3 {
			w.file(mail("late"))
		}
		r := g.Run(t)
		if n := strings.Count(r.Got, "\nSubject: "); r.Code != 0 || n != want || strings.Contains(r.Got, "\n..dots") {
			t.Fatalf("getmail has %d messages, want %d\n%+v", n, want, r)
		}
	}
}

// testFetchmail fetches everything, and deletes it at the server.
func testFetchmail(t *testing.T, w *world, host, port string) {
	mailtest.Require(t, "fetchmail")
	home := t.TempDir()
	file, box := filepath.Join(home, "fetchmailrc"), filepath.Join(home, "box")
	rc := fmt.Sprintf("poll %s protocol pop3 port %s uidl user anna password secret no keep fetchall sslproto '' mda \"cat >> %s\"\n", host, port, box)
	if err := os.WriteFile(file, []byte(rc), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("fetchmail", "-f", file, "-i", filepath.Join(home, "ids"), "--pidfile", filepath.Join(home, "pid"), "-N", "-v")
	cmd.Env = append(os.Environ(), "HOME="+home, "FETCHMAILHOME="+home, "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("fetchmail: %v\n%s", err, out)
	}
	got, _ := os.ReadFile(box)
	if n := strings.Count(string(got), "\nSubject: "); n != 3 || strings.Contains(string(got), "\n..dots") {
		t.Errorf("fetchmail has %d messages, want 3\n%s\n%s", n, got, out)
	}
	w.waitFree()
	if d, err := w.account().Maildrop(t.Context()); err != nil || len(d.Messages) != 0 {
		t.Errorf("after fetchmail: %+v, %v", d, err)
	}
}
