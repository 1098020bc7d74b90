package scenario

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"mailferry/internal/mailtest"
)

// finding is one of testssl.sh.
type finding struct{ ID, Severity, Finding string }

func (f finding) String() string { return f.Severity + " " + f.ID + ": " + f.Finding }

// counts: it is LOW or worse. WARN is of the scanner itself: what its OpenSSL
// cannot do, a connection that failed.
func (f finding) counts() bool {
	switch f.Severity {
	case "OK", "INFO", "DEBUG", "WARN":
		return false
	}
	return true
}

// testssl scans a server, by STARTTLS where a protocol is named. It looks at
// everything but what it makes of known clients, and names no host to a DNS:
// NXCONNECT is for a connection that it wants to fail.
func testssl(t *testing.T, address, starttls string) map[string]finding {
	t.Helper()
	out := filepath.Join(t.TempDir(), "findings.json")
	args := []string{"--quiet", "--color", "0", "--warnings", "off", "--nodns", "none", "--openssl-timeout", "20", "--connect-timeout", "20",
		"-p", "-s", "-f", "-P", "-S", "-h", "-U", "--jsonfile", out}
	if starttls != "" {
		args = append(args, "-t", starttls)
	}
	cmd := exec.CommandContext(t.Context(), "testssl", append(args, address)...)
	cmd.Dir, cmd.Env = filepath.Dir(out), append(os.Environ(), "NXCONNECT=127.0.0.1:0")
	text, err := cmd.CombinedOutput()
	// A small exit code counts what it could not do for want of features in
	// OpenSSL; from 50 on it gave up.
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() < 0 || exit.ExitCode() >= 50) {
		t.Fatalf("testssl.sh: %v\n%s", err, text)
	}
	written, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var list []finding
	if err := json.Unmarshal(written, &list); err != nil {
		t.Fatalf("%v\n%s", err, written)
	}
	found := map[string]finding{}
	for _, f := range list {
		found[f.ID+" "+f.Severity] = f
	}
	// It has come to the last part, and it has spoken TLS.
	_, last := found["RC4 OK"]
	_, spoken := found["TLS1_3 OK"]
	if !last || !spoken {
		t.Fatalf("testssl.sh has not looked at all of %s:\n%s", address, text)
	}
	return found
}

// testsslConf is nginx by Mozilla's profiles, each protocol in both: modern on
// the ports behind {modern}, intermediate on the others.
const testsslConf = `daemon off; pid {dir}/pid; error_log {dir}/error.log;
load_module /usr/lib/nginx/modules/ngx_mail_module.so;
events { }
mail {
  auth_http 127.0.0.1:1; proxy_timeout 1m;
  ssl_certificate {cert}; ssl_certificate_key {key}; {ciphers}
  server { listen {imaps modern} ssl; protocol imap; ssl_protocols TLSv1.3; }
  server { listen {imaps} ssl; protocol imap; ssl_protocols TLSv1.2 TLSv1.3; }
  server { listen {imap modern}; starttls on; protocol imap; ssl_protocols TLSv1.3; }
  server { listen {imap}; starttls on; protocol imap; ssl_protocols TLSv1.2 TLSv1.3; }
}
http {
  access_log off; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  ssl_certificate {cert}; ssl_certificate_key {key}; {ciphers}
  add_header Strict-Transport-Security "max-age=63072000" always;
  server { listen {https modern} ssl; ssl_protocols TLSv1.3; return 404; }
  server { listen {https} ssl; ssl_protocols TLSv1.2 TLSv1.3; return 404; }
}
`

// weekLongTickets is announced by crypto/tls of every ticket in TLS 1.3, and
// cannot be changed. The keys are gone after a day (TestTicketsAreGoodForADay
// of the proxy), which is what testssl.sh is after.
const weekLongTickets = "valid for 604800 seconds (>daily)"

// TestTestsslFindsNothingWorse than at nginx in the same role and with the same
// certificate, in either of Mozilla's profiles.
func TestTestsslFindsNothingWorse(t *testing.T) {
	if !mailtest.Soaking() {
		t.Skip("a scan takes a minute: set SOAK=1")
	}
	mailtest.Require(t, "testssl", "nmap", "nginx")
	ca := mailtest.NewCA(t)
	yard := map[string]string{}
	fill := []string{"{ciphers}", nginxConf[strings.Index(nginxConf, "ssl_prefer"):strings.Index(nginxConf, "\n  server")]}
	fill[1] = strings.Replace(fill[1], "ssl_protocols TLSv1.2 TLSv1.3;", "", 1)
	for _, name := range []string{"imaps", "imap", "https"} {
		for _, profile := range []string{"", " modern"} {
			yard[name+profile] = fmt.Sprintf("127.0.0.1:%d", mailtest.FreePort(t))
			fill = append(fill, "{"+name+profile+"}", yard[name+profile])
		}
	}
	startNginx(t, ca, strings.NewReplacer(fill...).Replace(testsslConf), yard["imaps"])
	at, strict := startScanned(t, ca, ""), startScanned(t, ca, ", session_tickets: false")
	var mu sync.Mutex
	scanned := map[string]map[string]finding{}
	t.Run("nginx", func(t *testing.T) {
		for name, address := range yard {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				starttls := ""
				if strings.HasPrefix(name, "imap") && !strings.HasPrefix(name, "imaps") {
					starttls = "imap"
				}
				found := testssl(t, address, starttls)
				t.Log(counting(found))
				mu.Lock()
				defer mu.Unlock()
				scanned[name] = found
			})
		}
	})
	if len(scanned) != len(yard) {
		t.FailNow()
	}
	for _, tt := range []struct {
		name, address, starttls, like string
		tickets                       bool
	}{
		{"imap", at["imap"], "imap", "imap", true},
		{"imaps", at["imaps"], "", "imaps", true},
		{"imaps without tickets", strict["imaps"], "", "imaps", false},
		{"pop3", at["pop3"], "pop3", "imap", true},
		{"pop3s", at["pop3s"], "", "imaps", true},
		{"submissions", at["submissions"], "", "imaps", false},
		{"admin", at["admin"], "", "https", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			modern, intermediate := scanned[tt.like+" modern"], scanned[tt.like]
			ours := testssl(t, tt.address, tt.starttls)
			t.Log(counting(ours))
			for key, f := range ours {
				_, old := intermediate[key]
				_, young := modern[key]
				switch {
				case !f.counts() || old && young:
				case tt.tickets && f.ID == "TLS_session_ticket" && f.Severity == "LOW" && f.Finding == weekLongTickets:
				default:
					t.Errorf("%v; at nginx, modern: %v, intermediate: %v", f, young, old)
				}
			}
		})
	}
}

func counting(found map[string]finding) (list []string) {
	for _, f := range found {
		if f.counts() {
			list = append(list, f.String())
		}
	}
	return list
}
