package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mailferry/backend"
	"mailferry/internal/line"
)

// farm is a network of stores in memory. What a host does with a connection is
// its serve function; a host without one refuses connections.
type farm struct {
	mu    sync.Mutex
	hosts map[string]func(net.Conn)
	dials []string
	wg    sync.WaitGroup
}

func newFarm(hosts map[string]func(net.Conn)) *farm { return &farm{hosts: hosts} }

func (f *farm) dial(_ context.Context, _, addr string) (net.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	host, _, _ := net.SplitHostPort(addr)
	f.dials = append(f.dials, host)
	serve := f.hosts[host]
	if serve == nil {
		return nil, errors.New("connection refused")
	}
	ours, theirs := line.Pipe()
	f.wg.Go(func() {
		defer theirs.Close()
		serve(theirs)
	})
	return ours, nil
}

func (f *farm) set(host string, serve func(net.Conn)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hosts[host] = serve
}

// dialled returns the hosts since the last call.
func (f *farm) dialled() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := strings.Join(f.dials, " ")
	f.dials = nil
	return s
}

// answering serves IMAP until the client goes; answer is what follows the tag
// of a login.
func answering(answer string) func(net.Conn) {
	return func(c net.Conn) {
		r := bufio.NewReader(c)
		fmt.Fprint(c, "* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] hi\r\n")
		for {
			l, err := r.ReadString('\n')
			if err != nil {
				return
			}
			tag, _, _ := strings.Cut(l, " ")
			fmt.Fprint(c, tag+" "+answer+"\r\n")
		}
	}
}

var wellStore = answering("OK [CAPABILITY IMAP4rev1] in")

// mute takes a connection and closes it without a word.
func mute(net.Conn) {}

func inFarm(t *testing.T, st *backend.Store, hosts map[string]func(net.Conn), run func(f *farm, b *Backends, login func(client string) (BackendConn, error))) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(hosts)
		b, err := NewBackends(BackendsOptions{Dial: f.dial})
		if err != nil {
			t.Fatal(err)
		}
		login := func(client string) (BackendConn, error) {
			return b.Connect(t.Context(), ConnectRequest{Route: backend.Route{User: "anna", Store: st, Host: st.Address}, Protocol: backend.IMAP,
				Password: "secret", CheckPassword: true, Client: &net.TCPAddr{IP: net.ParseIP(client), Port: 1}})
		}
		run(f, b, login)
		b.Close()
		f.wg.Wait()
	})
}

func oneStore() *backend.Store {
	return &backend.Store{Name: "old", Type: backend.StoreDovecot, Address: "a", TLS: backend.TLSNone}
}

func TestBackendIsTriedAgainWithinALogin(t *testing.T) {
	st := oneStore()
	inFarm(t, st, map[string]func(net.Conn){}, func(f *farm, _ *Backends, login func(string) (BackendConn, error)) {
		begin := time.Now()
		go func() {
			time.Sleep(connectPause / 2)
			f.set("a", wellStore)
		}()
		c, err := login("192.0.2.1")
		if err != nil || f.dialled() != "a a" || time.Since(begin) != connectPause {
			t.Fatalf("after %s: %v", time.Since(begin), err)
		}
		c.Close()
	})
}

// TestDeadBackendIsNotDialledByLogins: and it returns by itself.
func TestDeadBackendIsNotDialledByLogins(t *testing.T) {
	st := oneStore()
	inFarm(t, st, map[string]func(net.Conn){}, func(f *farm, b *Backends, login func(string) (BackendConn, error)) {
		if _, err := login("192.0.2.1"); !backend.IsKind(err, backend.KindUnavailable) {
			t.Fatal(err)
		}
		if got := f.dialled(); got != "a a" {
			t.Errorf("dialled %s", got)
		}
		begin := time.Now()
		for i := range 100 {
			if _, err := login(fmt.Sprintf("192.0.2.%d", i)); !backend.IsKind(err, backend.KindUnavailable) || !strings.Contains(err.Error(), "away") {
				t.Fatal(err)
			}
		}
		if got := f.dialled(); got != "" || time.Since(begin) > 0 {
			t.Errorf("logins dialled %s, and took %s", got, time.Since(begin))
		}
		if l := b.Troubles(); len(l) != 1 || l[0].Host != "a" || l[0].Port != 143 || l[0].Since.IsZero() {
			t.Errorf("troubles %+v", l)
		}
		time.Sleep(10 * probeEvery)
		if got := strings.Count(f.dialled(), "a"); got < 8 || got > 10 {
			t.Errorf("%d probes", got)
		}
		time.Sleep(2 * time.Minute)
		f.set("a", wellStore)
		time.Sleep(probeLater + time.Second)
		c, err := login("192.0.2.1")
		if err != nil || len(b.Troubles()) != 0 {
			t.Fatalf("it has not returned: %v, %+v", err, b.Troubles())
		}
		c.Close()
	})
}

// TestForgottenBackendIsNotProbed: what nobody asks for any more costs nothing.
func TestForgottenBackendIsNotProbed(t *testing.T) {
	inFarm(t, oneStore(), map[string]func(net.Conn){}, func(f *farm, b *Backends, login func(string) (BackendConn, error)) {
		if _, err := login("192.0.2.1"); err == nil {
			t.Fatal("logged in nowhere")
		}
		time.Sleep(forgetIn + time.Minute)
		f.dialled()
		time.Sleep(time.Hour)
		if got := f.dialled(); got != "" || len(b.Troubles()) > 0 {
			t.Errorf("dialled %s, troubles %+v", got, b.Troubles())
		}
	})
}

func TestAlternatesFailOverAndReturn(t *testing.T) {
	st := oneStore()
	st.Alternates = []string{"b", "c"}
	inFarm(t, st, map[string]func(net.Conn){"b": mute, "c": wellStore, "other": wellStore}, func(f *farm, b *Backends, login func(string) (BackendConn, error)) {
		expect := func(host string) {
			t.Helper()
			c, err := login("192.0.2.1")
			if err != nil || c.Host != host {
				t.Fatalf("at %s: %v", c.Host, err)
			}
			c.Close()
		}
		expect("c") // a refuses, b is mute
		f.set("b", wellStore)
		expect("b")
		f.dialled()
		expect("b")
		if got := f.dialled(); got != "b" { // a had two misses
			t.Errorf("dialled %s", got)
		}
		f.set("a", wellStore)
		if got := b.Where(backend.Route{Store: st, Host: "a"}, backend.IMAP); got != "b" {
			t.Errorf("logins go to %s", got)
		}
		time.Sleep(probeEvery + time.Second)
		expect("a")
		for _, host := range []string{"a", "b", "c"} {
			f.set(host, nil)
		}
		if _, err := login("192.0.2.1"); !backend.IsKind(err, backend.KindUnavailable) {
			t.Error(err)
		}
		if strings.Contains(f.dialled(), "other") {
			t.Error("another store was dialled")
		}
	})
}

// TestOneClientTakesNoBackendAway: what fails behind the dial counts by clients.
func TestOneClientTakesNoBackendAway(t *testing.T) {
	st := oneStore()
	inFarm(t, st, map[string]func(net.Conn){"a": mute}, func(f *farm, b *Backends, login func(string) (BackendConn, error)) {
		for range 10 {
			if _, err := login("192.0.2.1"); !backend.IsKind(err, backend.KindUnavailable) {
				t.Fatal(err)
			}
		}
		if f.dialled() == "" || !b.Troubles()[0].Since.IsZero() {
			t.Fatal("one client has taken a store away")
		}
		for i := range maxClients {
			_, _ = login(fmt.Sprintf("192.0.2.%d", i+1))
		}
		f.dialled()
		if _, err := login("192.0.2.9"); err == nil || f.dialled() != "" {
			t.Errorf("it is dialled after %d clients: %v", maxClients, err)
		}
	})
}

// TestRefusedCredentialsAreNotRepeated: a wrong password is shown once.
func TestRefusedCredentialsAreNotRepeated(t *testing.T) {
	st := oneStore()
	st.Alternates = []string{"b"}
	for answer, kind := range map[string]backend.Kind{"NO [AUTHENTICATIONFAILED] no": backend.KindAuthentication, "NO [UNAVAILABLE] later": backend.KindTemporary} {
		inFarm(t, st, map[string]func(net.Conn){"a": answering(answer), "b": wellStore}, func(f *farm, _ *Backends, login func(string) (BackendConn, error)) {
			if _, err := login("192.0.2.1"); !backend.IsKind(err, kind) || f.dialled() != "a" {
				t.Errorf("%s: %v", answer, err)
			}
		})
	}
	// Nor after the store has broken off: it may have counted it.
	inFarm(t, st, map[string]func(net.Conn){"a": func(c net.Conn) {
		fmt.Fprint(c, "* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] hi\r\n")
		_, _ = bufio.NewReader(c).ReadString('\n')
	}, "b": wellStore}, func(f *farm, _ *Backends, login func(string) (BackendConn, error)) {
		if _, err := login("192.0.2.1"); !backend.IsKind(err, backend.KindUnavailable) || f.dialled() != "a" {
			t.Error(err)
		}
	})
}

func TestSessionsOfABackendAreBounded(t *testing.T) {
	st := oneStore()
	st.MaxSessions = 2
	inFarm(t, st, map[string]func(net.Conn){"a": wellStore}, func(_ *farm, b *Backends, login func(string) (BackendConn, error)) {
		var held []BackendConn
		for range 2 {
			c, err := login("192.0.2.1")
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, c)
		}
		got := make(chan error, 2)
		for range 2 {
			go func() {
				c, err := login("192.0.2.1")
				if err == nil {
					defer c.Close()
				}
				got <- err
			}()
		}
		synctest.Wait()
		if _, err := login("192.0.2.1"); !backend.IsKind(err, backend.KindTemporary) { // no room to wait
			t.Errorf("the fifth: %v", err)
		}
		held[0].Close()
		held[0].Close() // again gives nothing back
		if err := <-got; err != nil {
			t.Errorf("who waited: %v", err)
		}
		if err := <-got; err != nil { // it got the place of the first who waited
			t.Errorf("who waited longer: %v", err)
		}
		c, err := login("192.0.2.1")
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if _, err := login("192.0.2.1"); !backend.IsKind(err, backend.KindTemporary) || time.Since(begin) != seatWait {
			t.Errorf("after %s: %v", time.Since(begin), err)
		}
		c.Close()
		held[1].Close()
		if len(b.rooms) != 0 {
			t.Errorf("places are left: %+v", b.rooms)
		}
	})
	// A login that fails gives its place back.
	inFarm(t, st, map[string]func(net.Conn){"a": answering("NO no")}, func(_ *farm, b *Backends, login func(string) (BackendConn, error)) {
		for range 5 {
			if _, err := login("192.0.2.1"); !backend.IsKind(err, backend.KindAuthentication) || len(b.rooms) != 0 {
				t.Errorf("%v, places %+v", err, b.rooms)
			}
		}
	})
}

func TestReferralsAreFollowedWithinTheStore(t *testing.T) {
	refer := func(host string) func(net.Conn) {
		return answering("NO [REFERRAL imap://anna;AUTH=*@" + host + "/] not here")
	}
	any := oneStore()
	any.Address = ""
	for name, tt := range map[string]struct {
		hosts map[string]func(net.Conn)
		want  string // where it ends; empty: nowhere
		dials string
	}{
		"one hop":        {map[string]func(net.Conn){"a": refer("b"), "b": wellStore}, "b", "a b"},
		"two hops":       {map[string]func(net.Conn){"a": refer("b"), "b": refer("c"), "c": wellStore}, "c", "a b c"},
		"three hops":     {map[string]func(net.Conn){"a": refer("b"), "b": refer("c"), "c": refer("a")}, "", "a b c"},
		"another host":   {map[string]func(net.Conn){"a": refer("evil"), "evil": wellStore}, "", "a"},
		"a dead one":     {map[string]func(net.Conn){"a": refer("b")}, "", "a b"},
		"wrong there":    {map[string]func(net.Conn){"a": refer("b"), "b": answering("NO no")}, "", "a b"},
		"nowhere at all": {map[string]func(net.Conn){"a": answering("NO [REFERRAL] x")}, "", "a"},
	} {
		t.Run(name, func(t *testing.T) {
			st := oneStore()
			st.Alternates = []string{"b", "c"}
			inFarm(t, st, tt.hosts, func(f *farm, b *Backends, login func(string) (BackendConn, error)) {
				c, err := login("192.0.2.1")
				if c.Host != tt.want || (err == nil) != (tt.want != "") || f.dialled() != tt.dials {
					t.Errorf("ends at %q: %v", c.Host, err)
				}
				if name == "wrong there" && !backend.IsKind(err, backend.KindAuthentication) {
					t.Errorf("a wrong password is not told as one: %v", err)
				}
				if err == nil {
					c.Close()
				}
				if len(b.Troubles()) > 0 {
					t.Errorf("troubles %+v", b.Troubles())
				}
			})
		})
	}
	if serves(any, "x") {
		t.Error("a store without address and TLS may send passwords anywhere")
	}
}
