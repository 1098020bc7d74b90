package mailtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Require skips the test, loudly, when one of the named peers is not
// installed: slapd samba perdition dovecot cyrus courier corpus imapflow, or
// a program such as mbsync mutt curl. With CI=true in the environment a missing peer is a
// failure: a machine that is to run everything must not pass by leaving things
// out.
func Require(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		why := missing(name)
		if why == "" {
			continue
		}
		if os.Getenv("CI") == "true" {
			t.Fatalf("PEER MISSING: %s: %s (make peers installs it)", name, why)
		}
		t.Skipf("PEER MISSING, NOTHING TESTED: %s: %s (make peers installs it)", name, why)
	}
}

// missing says why a peer cannot be used, or nothing.
func missing(name string) string {
	switch name {
	case "cyrus":
		if _, err := os.Stat(filepath.Join(CyrusRoot(), ".ready")); err != nil {
			return "no Cyrus in " + CyrusRoot()
		}
		return needsRoot()
	case "pebble":
		if _, err := os.Stat(filepath.Join(cacheDir(), "pebble", "go.sum")); err != nil {
			return "no pebble in " + cacheDir()
		}
		return ""
	case "courier":
		return courierMissing()
	case "imapflow":
		if _, err := os.Stat(filepath.Join(imapflowDir(), "node_modules", "imapflow")); err != nil {
			return "no ImapFlow in " + imapflowDir()
		}
		name = "node"
	case "corpus":
		if len(corpusFiles()) == 0 {
			return "no messages in " + corpusDir()
		}
		return ""
	case "samba":
		return sambaMissing()
	case "dovecot":
		if why := needsRoot(); why != "" {
			return why
		}
	}
	if _, err := program(name); err != nil {
		return err.Error()
	}
	return ""
}

// sambaMissing says why no domain can be run. A container without the right to
// make network namespaces has none, whatever is installed.
func sambaMissing() string {
	if why := needsRoot(); why != "" {
		return why
	}
	for _, name := range []string{"samba", "samba-tool", "ip", "unshare"} {
		if _, err := program(name); err != nil {
			return err.Error()
		}
	}
	if out, err := exec.Command("unshare", "--net", "ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Sprintf("no network namespaces here: %v: %s", err, out)
	}
	return ""
}

// courierMissing says why no Courier can be run; it takes a mount namespace.
func courierMissing() string {
	if _, err := os.Stat(filepath.Join(CourierRoot(), ".ready")); err != nil {
		return "no Courier in " + CourierRoot()
	}
	if why := needsRoot(); why != "" {
		return why
	}
	if out, err := exec.Command("unshare", "--mount", "true").CombinedOutput(); err != nil {
		return fmt.Sprintf("no mount namespaces here: %v: %s", err, out)
	}
	return ""
}

func needsRoot() string {
	if os.Geteuid() != 0 {
		return "needs root"
	}
	return ""
}

// program finds a peer's program; servers live outside an ordinary PATH.
func program(name string) (string, error) {
	p, err := exec.LookPath(name)
	if err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin", "/sbin"} {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p, nil
		}
	}
	return "", err
}

// cacheDir is where bench/peers keeps what is fetched once; the rule is the
// one of bench/peers/lib.sh.
func cacheDir() string {
	if d := os.Getenv("PEERS_CACHE"); d != "" {
		return d
	}
	if d := os.Getenv("XDG_CACHE_HOME"); d != "" {
		return filepath.Join(d, "mailferry")
	}
	return "/var/cache/mailferry"
}

func envOr(name, otherwise string) string {
	if v := strings.TrimSpace(os.Getenv(name)); v != "" {
		return v
	}
	return otherwise
}
