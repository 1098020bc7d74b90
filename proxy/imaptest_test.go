package proxy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"mailferry/backend"
	"mailferry/internal/mailtest"
)

// imaptestRefused are groups of imaptest that the proxy ends, and its word.
var imaptestRefused = map[string]string{"id": "Command line is too long"} // 32 KiB before the login

// TestImaptestThroughProxy runs the scripted tests of Dovecot's imaptest in front
// of a store and of the proxy, where IMAPTEST names its program and
// IMAPTEST_SCRIPTS the folder of its scripts; docs/operations.md says how to get
// them. A group has the same result both times, be it a failure; the
// stress test finds no error through the proxy.
func TestImaptestThroughProxy(t *testing.T) {
	program, scripts := os.Getenv("IMAPTEST"), os.Getenv("IMAPTEST_SCRIPTS")
	if program == "" || scripts == "" {
		t.Skip("IMAPTEST and IMAPTEST_SCRIPTS are not set")
	}
	files, err := os.ReadDir(scripts)
	if err != nil {
		t.Fatal(err)
	}
	for name, start := range map[string]func(*testing.T) realStore{"dovecot": realDovecot, "own": realOwn} {
		t.Run(name, func(t *testing.T) {
			if name != "own" {
				mailtest.Require(t, name)
			}
			r := start(t)
			r.store.TLS = backend.TLSNone
			through := r.serve(t, &imap)
			groups, failed := 0, 0
			for _, f := range files {
				if f.IsDir() || filepath.Ext(f.Name()) == ".mbox" {
					continue
				}
				script := filepath.Join(scripts, f.Name())
				proxied := runImaptest(t, program, "bert", through, "test="+script)
				if word := imaptestRefused[f.Name()]; word != "" {
					if !strings.Contains(proxied, word) {
						t.Errorf("%s: %s", f.Name(), proxied)
					}
					continue
				}
				direct := runImaptest(t, program, "anna", r.addr, "test="+script)
				groups++
				if !strings.HasPrefix(direct, "exit status 0") {
					failed++
					t.Logf("%s fails directly, too: %s", f.Name(), direct)
				}
				if direct != proxied {
					t.Errorf("%s:\ndirect            %s\nthrough the proxy %s", f.Name(), direct, proxied)
				}
			}
			stress := runImaptest(t, program, "bert", through, "mbox="+filepath.Join(scripts, "default.mbox"), "clients=10", "secs=10")
			if !strings.HasPrefix(stress, "exit status 0") || strings.Contains(stress, "Error:") {
				t.Errorf("stress: %s", stress)
			}
			t.Logf("%d groups, %d fail directly", groups, failed)
		})
	}
}

// runImaptest returns how one run ended and what it complained of.
func runImaptest(t *testing.T, program, user, addr string, args ...string) string {
	t.Helper()
	host, port, _ := strings.Cut(addr, ":")
	cmd := exec.CommandContext(t.Context(), program, append([]string{"user=" + user, "pass=secret", "host=" + host, "port=" + port, "seed=1"}, args...)...)
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	s := cmd.ProcessState.String() + "\n" + strings.ReplaceAll(string(out), user, "USER")
	return canonical(imaptestNoise.ReplaceAllString(s, "-"))
}

// imaptestNoise are counters, tags and clocks in what imaptest prints.
var imaptestNoise = regexp.MustCompile(`0x[0-9a-f]+|\d+\.\d+`)
