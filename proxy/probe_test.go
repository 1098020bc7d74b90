package proxy

import (
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"mailferry/backend"
	"mailferry/internal/mailtest"
)

// TestProbes runs the black-box probes of bench/ against the proxy: in front of
// their own backends, which look at what arrives, and of a real Dovecot.
func TestProbes(t *testing.T) {
	t.Parallel() // it waits more than it works
	mailtest.Require(t, "python3")
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Fatal(err)
	}
	ca := mailtest.NewCA(t)
	probe := func(t *testing.T, proto *protocol, st *backend.Store, script string, args ...string) {
		all := testStores()
		all["old"] = st
		all["dead"] = &backend.Store{Name: "dead", Address: "127.0.0.1", TLS: backend.TLSNone,
			Ports: map[backend.Protocol]int{proto.name: freePort(t)}}
		dir := newDirectory()
		dir.entries = map[string]backend.Entry{"alice": {User: "alice", Store: "old"}, "dead": {User: "dead", Store: "dead"}}
		_, addr := serveRealOf(t, proto, Options{Stores: all, Connector: RemoteConnector{}, Directory: dir, TLS: ca.ServerConfig(t)})
		args = append([]string{"../bench/" + script, "--" + map[backend.Protocol]string{backend.POP3: "pop3",
			backend.ManageSieve: "sieve", backend.IMAP: "imap"}[proto.name], strconv.Itoa(portOf(t, addr))}, args...)
		if mailtest.Soaking() {
			args = append(args, "--slow") // the silent client, who is cut within a minute
		}
		out, err := exec.CommandContext(t.Context(), python, args...).CombinedOutput()
		if t.Log("\n" + string(out)); err != nil || strings.Contains(string(out), " FAIL ") || !strings.Contains(string(out), " PASS ") {
			t.Errorf("%s: %v", script, err)
		}
	}
	fake := func(proto *protocol) (st *backend.Store, port string) {
		n := freePort(t)
		return &backend.Store{Name: "old", Address: "127.0.0.1", TLS: backend.TLSNone, Ports: map[backend.Protocol]int{proto.name: n}}, strconv.Itoa(n)
	}
	t.Run("pop3", func(t *testing.T) {
		st, port := fake(&pop3)
		probe(t, &pop3, st, "proxy_probe.py", "--pop-backend", port, "--imap-backend", strconv.Itoa(freePort(t)))
	})
	t.Run("imap", func(t *testing.T) {
		st, port := fake(&imap)
		probe(t, &imap, st, "proxy_probe.py", "--imap-backend", port, "--pop-backend", strconv.Itoa(freePort(t)), "--starttls", "--dead")
	})
	t.Run("managesieve", func(t *testing.T) {
		st, port := fake(&managesieve)
		probe(t, &managesieve, st, "managesieve_probe.py", "--backend", port, "--starttls", "--dead")
	})
	t.Run("managesieve dovecot", func(t *testing.T) {
		mailtest.Require(t, "dovecot")
		d := mailtest.StartDovecot(t, mailtest.DovecotOptions{Password: "pw"})
		probe(t, &managesieve, &backend.Store{Name: "old", Type: backend.StoreDovecot, Address: "localhost", TLSConfig: d.CA.Client(),
			Ports: map[backend.Protocol]int{backend.ManageSieve: portOf(t, d.Sieve)}}, "managesieve_probe.py", "--real", "--starttls", "--dead")
	})
}

// freePort is a port on which nothing listened a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return portOf(t, l.Addr().String())
}
