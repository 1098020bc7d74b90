package scenario

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"mailferry/internal/mailtest"
)

// nginxConf is Mozilla's intermediate profile (5.7) for mail, the yardstick.
const nginxConf = `daemon off; pid {dir}/pid; error_log {dir}/error.log;
load_module /usr/lib/nginx/modules/ngx_mail_module.so;
events { }
mail {
  auth_http 127.0.0.1:1; proxy_timeout 1m;
  ssl_certificate {cert}; ssl_certificate_key {key};
  ssl_protocols TLSv1.2 TLSv1.3; ssl_prefer_server_ciphers off; ssl_session_tickets off;
  ssl_ciphers ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:DHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES256-GCM-SHA384:DHE-RSA-CHACHA20-POLY1305;
  server { listen {addr} ssl; protocol imap; }
}
`

// scan is what nmap finds of a TLS server: versions, ciphers, warnings.
type scan struct {
	text     string
	versions []string
	ciphers  []string
	least    string
	warnings []string
}

func scanTLS(t *testing.T, address string) scan {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "nmap", "-Pn", "-n", "-p", portOf(address), "--script", "+ssl-enum-ciphers", "127.0.0.1").CombinedOutput()
	if err != nil {
		t.Errorf("nmap: %v\n%s", err, out)
	}
	s := scan{text: string(out)}
	for _, l := range strings.Split(s.text, "\n") {
		l = strings.TrimSpace(strings.Trim(l, "|_ "))
		switch {
		case regexp.MustCompile(`^(SSLv|TLSv)[0-9.]+:`).MatchString(l):
			s.versions = append(s.versions, strings.TrimSuffix(l, ":"))
		case strings.HasPrefix(l, "TLS_"):
			s.ciphers = append(s.ciphers, strings.Fields(l)[0])
		case strings.HasPrefix(l, "least strength:"):
			s.least = strings.TrimSpace(strings.TrimPrefix(l, "least strength:"))
		case strings.Contains(l, "vulnerable") || strings.Contains(l, "Broken cipher") || strings.Contains(l, "Weak"):
			s.warnings = append(s.warnings, l)
		}
	}
	return s
}

// startNginx runs nginx with conf, in which {dir}, {cert} and {key} are filled
// in, and returns when it listens on the address.
func startNginx(t *testing.T, ca *mailtest.CA, conf, address string) {
	t.Helper()
	dir := t.TempDir()
	conf = strings.NewReplacer("{dir}", dir, "{cert}", ca.Server, "{key}", ca.Key, "{addr}", address).Replace(conf)
	if err := os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	nginx := exec.Command("nginx", "-p", dir, "-c", filepath.Join(dir, "nginx.conf"), "-e", filepath.Join(dir, "error.log"))
	nginx.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := nginx.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		nginx.Process.Signal(syscall.SIGTERM)
		nginx.Wait()
	})
	for begin := time.Now(); ; { // nginx does not say when it listens
		if out, _ := exec.Command("nmap", "-Pn", "-n", "-p", portOf(address), "127.0.0.1").CombinedOutput(); strings.Contains(string(out), "/tcp open") {
			return
		}
		if time.Since(begin) > time.Minute {
			t.Fatal("nginx does not listen")
		}
	}
}

// startScanned runs a node with the tls settings, and gives its listeners.
func startScanned(t *testing.T, ca *mailtest.CA, settings string) map[string]string {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	at, dir := map[string]string{}, t.TempDir()
	for _, name := range []string{"imap", "imaps", "pop3", "pop3s", "submissions", "admin"} {
		at[name] = fmt.Sprintf("127.0.0.1:%d", mailtest.FreePort(t))
	}
	n := &node{program: path, imap: at["imap"], data: filepath.Join(dir, "data"), config: filepath.Join(dir, "mailferry.yaml")}
	text := fmt.Sprintf("data: %s\nlisten: {imap: [%q], imaps: [%q], pop3: [%q], pop3s: [%q], lmtp: [], submission: [], submissions: [%q], admin: [%q]}\ntls: {certificates: [{cert: %q, key: %q}]%s}\n",
		n.data, at["imap"], at["imaps"], at["pop3"], at["pop3s"], at["submissions"], at["admin"], ca.Server, ca.Key, settings)
	if err := os.WriteFile(n.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if n.log, err = os.Create(filepath.Join(dir, "node.log")); err != nil {
		t.Fatal(err)
	}
	n.start(t)
	t.Cleanup(func() {
		n.kill()
		n.log.Close()
	})
	return at
}

// TestTLSIsNoWorseThanNginx by the judgement of nmap.
func TestTLSIsNoWorseThanNginx(t *testing.T) {
	mailtest.Require(t, "nmap", "nginx")
	ca := mailtest.NewCA(t)
	theirs := fmt.Sprintf("127.0.0.1:%d", mailtest.FreePort(t))
	startNginx(t, ca, nginxConf, theirs)
	at := startScanned(t, ca, "")
	// The listeners share their settings: one stands for all in an ordinary run.
	listeners := map[string]string{"imaps": at["imaps"]}
	if mailtest.Soaking() {
		for _, name := range []string{"pop3s", "submissions", "admin"} {
			listeners[name] = at[name]
		}
	}
	var yard scan
	scanned := make(chan scan)
	go func() { scanned <- scanTLS(t, theirs) }()
	found := map[string]scan{}
	for name, address := range listeners {
		found[name] = scanTLS(t, address)
	}
	yard = <-scanned
	if len(yard.versions) == 0 || yard.least != "A" {
		t.Fatalf("nginx, by nmap:\n%s", yard.text)
	}
	t.Logf("nginx: %v %v, least strength %s, warnings %q", yard.versions, yard.ciphers, yard.least, yard.warnings)
	for name, ours := range found {
		t.Logf("%s: %v %v, least strength %s, warnings %q", name, ours.versions, ours.ciphers, ours.least, ours.warnings)
		if len(ours.versions) == 0 || len(ours.ciphers) == 0 || ours.least != "A" || len(ours.warnings) > len(yard.warnings) {
			t.Errorf("%s, by nmap:\n%s\nnginx:\n%s", name, ours.text, yard.text)
		}
		for _, v := range ours.versions {
			if !slices.Contains(yard.versions, v) {
				t.Errorf("%s speaks %s, nginx does not", name, v)
			}
		}
		for _, c := range ours.ciphers {
			if !slices.Contains(yard.ciphers, c) {
				t.Errorf("%s takes %s, nginx does not", name, c)
			}
		}
	}
}
