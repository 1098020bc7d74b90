package imapd_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"mailferry/store/imapd"
)

// TestImaptest runs Dovecot's imaptest where IMAPTEST names its program and
// IMAPTEST_SCRIPTS the folder of its scripted tests; docs/operations.md says how
// to get them.
func TestImaptest(t *testing.T) {
	program, scripts := os.Getenv("IMAPTEST"), os.Getenv("IMAPTEST_SCRIPTS")
	if program == "" || scripts == "" {
		t.Skip("IMAPTEST and IMAPTEST_SCRIPTS are not set")
	}
	w := newWorld(t, func(o *imapd.Options) { o.ClearLogin = true })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go w.server.Serve(l)
	host, port, _ := net.SplitHostPort(l.Addr().String())
	run := func(t *testing.T, args ...string) {
		t.Helper()
		args = append([]string{"user=anna", "pass=secret", "host=" + host, "port=" + port}, args...)
		if out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out[max(0, len(out)-4000):])
		}
	}
	files, err := os.ReadDir(scripts)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		name := f.Name()
		if f.IsDir() || filepath.Ext(name) == ".mbox" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			if name == "id" {
				t.Skip("before the login a line of 32 KiB is refused")
			}
			run(t, "test="+filepath.Join(scripts, name))
		})
	}
	t.Run("stress", func(t *testing.T) {
		run(t, "mbox="+filepath.Join(scripts, "default.mbox"), "clients=10", "secs=10", "seed=1")
	})
}
