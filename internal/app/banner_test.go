package app

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"mailferry/internal/mailtest"
)

// TestBannerCommandsWork runs what the first start prints, as it is printed.
func TestBannerCommandsWork(t *testing.T) {
	mailtest.Require(t, "curl", "mutt", "openssl")
	s := newSetup(t, anyPort)
	s.start(t)
	commands := printedCommands(s.banner.String())
	for _, name := range []string{"printf", "echo"} { // send by curl, then by mutt
		if out, err := shell(t, commands[name], ""); err != nil {
			t.Fatalf("%s: %v\n%s", commands[name], err, out)
		}
	}
	if out, err := shell(t, commands["curl --cacert"], ""); err != nil || !strings.Contains(out, "* SEARCH 1 2") {
		t.Errorf("read by curl: %v\n%s", err, out)
	}
	line, typed, _ := strings.Cut(commands["openssl"], "# then type: ")
	out, err := shell(t, line, typed+"\nb STATUS INBOX (MESSAGES)\nc LOGOUT\n")
	if err != nil || !strings.Contains(out, "MESSAGES 2") || !strings.Contains(out, "c OK") {
		t.Errorf("openssl: %v\n%s", err, out)
	}
}

// printedCommands finds the first command of each kind; a line that ends with a
// pipe goes on in the next one.
func printedCommands(banner string) map[string]string {
	found := map[string]string{}
	text := strings.ReplaceAll(banner, "|\n", "| ")
	for _, l := range strings.Split(text, "\n") {
		l = strings.TrimSpace(l)
		for _, kind := range []string{"printf", "echo", "curl --cacert", "openssl", "mutt"} {
			if strings.HasPrefix(l, kind) && found[kind] == "" {
				found[kind] = l
			}
		}
	}
	return found
}

// shell runs a line in a home of its own.
func shell(t *testing.T, line, input string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-c", line)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "TERM=dumb")
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
