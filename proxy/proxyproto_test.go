package proxy

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"mailferry/backend"
	"mailferry/internal/mailtest"
)

const v4Header = proxySignature + "\x21\x11\x00\x0c\xc0\x00\x02\x07\xc0\x00\x02\x01\x12\x34\x00\x8f"

func TestReadProxyHeader(t *testing.T) {
	for in, want := range map[string]string{
		"PROXY TCP4 192.0.2.7 192.0.2.1 4660 143\r\n":               "192.0.2.7:4660",
		"PROXY TCP6 2001:db8::7 2001:db8::1 4660 143\r\n":           "[2001:db8::7]:4660",
		"PROXY UNKNOWN\r\n":                                         "",
		"PROXY UNKNOWN ffff:f ffff:f 1 2\r\n":                       "",
		v4Header:                                                    "192.0.2.7:4660",
		strings.Replace(v4Header, "\x00\x0c", "\x00\x0e", 1) + "xx": "192.0.2.7:4660", // more may follow
		proxySignature + "\x20\x00\x00\x00":                         "",
		proxySignature + "\x21\x21\x00\x24" + strings.Repeat("\x20\x01", 16) + "\x12\x34\x00\x8f": "[2001:2001:2001:2001:2001:2001:2001:2001]:4660",
		"PROXY TCP4 192.0.2.7 192.0.2.1 4660\r\n":                                                 "error",
		"PROXY TCP4 2001:db8::7 2001:db8::1 4660 143\r\n":                                         "error",
		"PROXY TCP4 192.0.2.7 192.0.2.1 99999 143\r\n":                                            "error",
		"PROXY TCP6 fe80::1%eth0 fe80::1 1 2\r\n":                                                 "error",
		"PROXY TCP4 " + strings.Repeat("1", 200) + "\r\n":                                         "error",
		"a LOGIN anna secret\r\n":                                                                 "error",
		proxySignature + "\x21\x12\x00\x0c" + strings.Repeat("x", 12):                             "error", // UDP
		proxySignature + "\x21\x11\xff\xff" + strings.Repeat("x", 70000):                          "error",
		proxySignature + "\x11\x11\x00\x0c" + strings.Repeat("x", 12):                             "error",
		proxySignature[:8]: "error",
		"":                 "error",
	} {
		r := strings.NewReader(in + "rest")
		a, err := readProxyHeader(r)
		got := ""
		if a != nil {
			got = a.String()
		}
		if err != nil {
			got = "error"
		}
		if got != want || err == nil && r.Len() != len("rest") {
			t.Errorf("%.60q: got %q, %v, %d octets are left, want %q", in, got, err, r.Len(), want)
		}
	}
}

// TestBalancers: whom a balancer names is the client; nobody else may name one.
func TestBalancers(t *testing.T) {
	addr, con, p := onSockets(t, Options{Balancers: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, CleartextLogin: CleartextAlways}, false)
	c := dialPeer(t, addr)
	c.send(v4Header + "a LOGIN anna secret\r\n")
	c.expect("* OK")
	<-con.conns
	c.expect("a OK")
	if got := p.Sessions(Match{})[0].Client; got != "192.0.2.7:4660" {
		t.Errorf("the client is %s", got)
	}
	if got := con.asked[0].Client.String(); got != "192.0.2.7:4660" {
		t.Errorf("the store hears of %s", got)
	}
	c = dialPeer(t, addr)
	c.sendLine("a LOGIN anna secret")
	c.end()
	addr, _, _ = onSockets(t, Options{Balancers: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}, false)
	c = dialPeer(t, addr)
	c.expect("* OK")
	c.sendLine("PROXY TCP4 192.0.2.7 192.0.2.1 4660 143")
	c.expect("PROXY BAD")
}

// TestIdentityHandedOn: Dovecot's log names the client and our session.
func TestIdentityHandedOn(t *testing.T) {
	d := mailtest.StartDovecot(t, mailtest.DovecotOptions{Extra: "login_trusted_networks = 127.0.0.0/8 ::1\n" +
		"login_log_format_elements = user=<%u> rip=%r session=<%{session}>\n"})
	all := testStores()
	all["old"] = &backend.Store{Name: "old", Type: backend.StoreDovecot, Address: "localhost", TLSConfig: d.CA.Client(), Identity: backend.IdentityNative,
		Ports: map[backend.Protocol]int{backend.IMAP: portOf(t, d.IMAP), backend.POP3: portOf(t, d.POP3), backend.ManageSieve: portOf(t, d.Sieve)},
		Login: backend.Login{Mode: backend.LoginMaster, User: d.MasterUser, Secret: backend.Secret(d.MasterPassword)}}
	for _, tt := range []struct {
		proto *protocol
		login string
		ok    string
	}{
		{&imap, "a LOGIN anna secret\r\n", "a OK"}, {&pop3, "AUTH PLAIN " + plain("", "anna", "secret") + "\r\n", "+OK Logged in"},
		{&managesieve, `AUTHENTICATE "PLAIN" "` + plain("", "anna", "secret") + "\"\r\n", `OK "Logged in"`},
	} {
		p, addr := serveRealOf(t, tt.proto, Options{Stores: all, Connector: RemoteConnector{}, Directory: newDirectory(),
			Balancers: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, CleartextLogin: CleartextAlways})
		c := dialPeer(t, addr)
		c.send(v4Header + tt.login)
		for !strings.HasPrefix(c.line(), tt.ok) {
		}
		want := "rip=192.0.2.7, session=<" + p.Sessions(Match{})[0].ID + ">"
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for limit := time.Now().Add(10 * time.Second); !strings.Contains(d.Log(), want); <-tick.C {
			if time.Now().After(limit) {
				t.Fatalf("%s: no %q in the log:\n%s", tt.proto.name, want, d.Log())
			}
		}
	}
}
