package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emersion/go-smtp"

	"mailferry/backend"
	"mailferry/internal/line"
)

// inbox takes messages of our own store, or of a foreign one over LMTP.
type inbox struct {
	mu     sync.Mutex
	mails  []string // "recipient: octets"
	refuse map[string]error
	wait   chan struct{} // when not nil, deliveries wait for it
	drop   bool          // the connection breaks after the octets
}

func (in *inbox) file(rcpt string, r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if in.wait != nil {
		<-in.wait
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if err := in.refuse[rcpt]; err != nil {
		return err
	}
	in.mails = append(in.mails, fmt.Sprintf("%s: %s", rcpt, b))
	return nil
}

func (in *inbox) got() []string {
	in.mu.Lock()
	defer in.mu.Unlock()
	out := slices.Clone(in.mails)
	slices.Sort(out)
	return out
}

func (in *inbox) Deliver(_ context.Context, m Message) []error {
	var errs []error
	for _, r := range m.Recipients {
		errs = append(errs, in.file(r, m.Open()))
	}
	return errs
}

// foreignLMTP is a store's LMTP service.
type foreignLMTP struct {
	in   *inbox
	to   []string
	conn *smtp.Conn
}

func (f *foreignLMTP) Reset()                               { f.to = nil }
func (f *foreignLMTP) Logout() error                        { return nil }
func (f *foreignLMTP) Mail(string, *smtp.MailOptions) error { return nil }
func (f *foreignLMTP) Data(io.Reader) error                 { return errors.New("not LMTP") }
func (f *foreignLMTP) Rcpt(to string, _ *smtp.RcptOptions) error {
	if strings.HasPrefix(to, "gone") {
		return smtpError(550, smtp.EnhancedCode{5, 1, 1}, "gone")
	}
	f.to = append(f.to, to)
	return nil
}

func (f *foreignLMTP) LMTPData(r io.Reader, status smtp.StatusCollector) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if f.in.drop {
		f.conn.Conn().Close()
		return errors.New("dropped")
	}
	for _, to := range f.to {
		status.SetStatus(to, f.in.file(to, strings.NewReader(string(b))))
	}
	return nil
}

// mailWorld is a world with LMTP: to our own store, and to "old" and "old2".
type mailWorld struct {
	*world
	own, old, old2 *inbox
	c              *smtp.Client
	dial           func() net.Conn // another connection
}

func inMailWorld(t *testing.T, change func(*Options), run func(*mailWorld)) {
	t.Helper()
	m := &mailWorld{own: &inbox{}, old: &inbox{}, old2: &inbox{}}
	inWorld(t, func(o *Options) {
		o.Deliverer = m.own
		o.DialLMTP = func(_ context.Context, r backend.Route) (net.Conn, error) {
			in := map[string]*inbox{"old": m.old, "old2": m.old2}[r.Store.Name]
			if in == nil {
				return nil, backend.NewError(backend.KindUnavailable, "")
			}
			here, there := line.Pipe()
			srv := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) { return &foreignLMTP{in: in, conn: c}, nil }))
			srv.LMTP, srv.Domain = true, r.Store.Name
			go srv.Serve(&oneConn{conn: there})
			return here, nil
		}
		if change != nil {
			change(o)
		}
	}, func(w *world) {
		m.world = w
		w.dir.entries["mover"] = backend.Entry{User: "mover", Store: "old2"}
		w.dir.entries["gone"] = backend.Entry{User: "gone", Store: "old"}
		w.dir.entries["late"] = backend.Entry{User: "late", Store: "home"}
		w.dir.entries["alias@example.net"] = w.dir.entries["homer"]
		for name, e := range maps.Clone(w.dir.entries) {
			if !strings.Contains(name, "@") {
				w.dir.entries[name+"@example.org"] = e
			}
		}
		l := newPipeListener()
		go w.p.ServeLMTP(l)
		m.dial = l.dial
		m.c = smtp.NewClientLMTP(l.dial())
		defer m.c.Close()
		run(m)
	})
}

// oneConn is a listener for one connection.
type oneConn struct {
	conn net.Conn
}

func (l *oneConn) Accept() (net.Conn, error) {
	if l.conn == nil {
		return nil, net.ErrClosed
	}
	c := l.conn
	l.conn = nil
	return c, nil
}
func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

const testMail = "From: a@example.org\r\nSubject: x\r\n\r\n.dot\r\nbody\r\n"

// deliver sends a message and returns the replies' codes by recipient, 250 for
// delivered.
func (m *mailWorld) deliver(body string, to ...string) map[string]int {
	m.t.Helper()
	codes := map[string]int{}
	for i, rcpt := range to {
		if !strings.Contains(rcpt, "@") {
			to[i] += "@example.org"
		}
	}
	defer func() {
		for rcpt, code := range codes {
			codes[strings.TrimSuffix(rcpt, "@example.org")] = code
		}
	}()
	if err := m.c.Mail("sender@example.org", nil); err != nil {
		m.t.Fatal(err)
	}
	accepted := 0
	for _, rcpt := range to {
		if err := m.c.Rcpt(rcpt, nil); err != nil {
			codes[rcpt] = err.(*smtp.SMTPError).Code
			continue
		}
		accepted++
	}
	if accepted == 0 {
		return codes
	}
	w, err := m.c.Data()
	if err != nil {
		m.t.Fatal(err)
	}
	if _, err := io.WriteString(w, body); err != nil {
		m.t.Fatal(err)
	}
	ok, err := w.CloseWithLMTPResponse()
	for rcpt := range ok {
		codes[rcpt] = 250
	}
	var refused smtp.LMTPDataError
	if errors.As(err, &refused) {
		for rcpt, se := range refused {
			codes[rcpt] = se.Code
		}
	}
	return codes
}

func TestLMTPByRecipient(t *testing.T) {
	inMailWorld(t, nil, func(m *mailWorld) {
		m.own.refuse = map[string]error{"late": backend.NewError(backend.KindOverQuota, "full")}
		got := m.deliver(testMail, "anna", "homer", "alias@example.net", "mover", "nemo", "gone", "late", "badstore")
		want := map[string]int{"anna": 250, "homer": 250, "alias@example.net": 250, "mover": 250, "nemo": 550, "gone": 550, "late": 452, "badstore": 451}
		for r, code := range want {
			if got[r] != code {
				t.Errorf("%s: %d, want %d", r, got[r], code)
			}
		}
		for in, rcpt := range map[*inbox]string{m.own: "homer", m.old: "anna@example.org", m.old2: "mover@example.org"} {
			if mails := in.got(); len(mails) != 1 || mails[0] != rcpt+": "+testMail {
				t.Errorf("%s: %q", rcpt, mails)
			}
		}
	})
}

func TestLMTPDirectoryCannotTell(t *testing.T) {
	inMailWorld(t, nil, func(m *mailWorld) {
		m.dir.err = backend.NewError(backend.KindUnavailable, "")
		if got := m.deliver(testMail, "anna", "nemo"); got["anna"] != 451 || got["nemo"] != 451 {
			t.Errorf("%v", got)
		}
	})
}

func TestLMTPBrokenConnectionIsNoDelivery(t *testing.T) {
	inMailWorld(t, nil, func(m *mailWorld) {
		m.old.drop = true
		if got := m.deliver(testMail, "anna", "homer"); got["anna"] != 451 || got["homer"] != 250 {
			t.Errorf("%v", got)
		}
	})
}

func TestLMTPLargeBodyGoesToSeveralStores(t *testing.T) {
	dir := t.TempDir()
	inMailWorld(t, func(o *Options) { o.SpoolDir, o.MaxMessage = dir, 4<<20 }, func(m *mailWorld) {
		body := "Subject: big\r\n\r\n" + strings.Repeat(strings.Repeat("0123456789", 7)+"\r\n", 20_000)
		if got := m.deliver(body, "anna", "homer", "mover"); got["anna"]+got["homer"]+got["mover"] != 750 {
			t.Errorf("%v", got)
		}
		for in, rcpt := range map[*inbox]string{m.own: "homer", m.old: "anna@example.org", m.old2: "mover@example.org"} {
			if mails := in.got(); len(mails) != 1 || mails[0] != rcpt+": "+body {
				t.Errorf("%s: %d mails", rcpt, len(mails))
			}
		}
		if got := m.deliver(strings.Repeat(body, 4), "anna", "homer"); got["anna"] != 552 || got["homer"] != 552 {
			t.Errorf("too large: %v", got)
		}
	})
}

func TestLMTPWaitsForTheHold(t *testing.T) {
	inMailWorld(t, nil, func(m *mailWorld) {
		m.ps.hold("anna", "old")
		m.confirmed(0, 0, "")
		done := make(chan map[string]int)
		go func() { done <- m.deliver(testMail, "anna") }()
		time.Sleep(4 * time.Second) // fake time
		m.ps.activate("anna", "home")
		if got := <-done; got["anna"] != 250 {
			t.Errorf("%v", got)
		}
		if len(m.old.got()) != 0 || len(m.own.got()) != 1 {
			t.Errorf("old %q, own %q", m.old.got(), m.own.got())
		}
	})
}

func TestLMTPWaitsForTheHoldInVain(t *testing.T) {
	inMailWorld(t, nil, func(m *mailWorld) {
		m.ps.hold("anna", "old")
		begin := time.Now()
		if got := m.deliver(testMail, "anna", "homer"); got["anna"] != 451 || got["homer"] != 250 {
			t.Errorf("%v", got)
		}
		if d := time.Since(begin); d != 10*time.Second {
			t.Errorf("after %v", d)
		}
	})
}

// TestLMTPDeliveryHoldsTheConfirmation: a message on its way to the old store is
// an open connection; the hold is confirmed after its answer, or refused.
func TestLMTPDeliveryHoldsTheConfirmation(t *testing.T) {
	for _, late := range []bool{false, true} {
		inMailWorld(t, nil, func(m *mailWorld) {
			m.old.wait = make(chan struct{})
			done := make(chan map[string]int)
			go func() { done <- m.deliver(testMail, "anna") }()
			synctest.Wait()
			m.ps.hold("anna", "old")
			synctest.Wait()
			if len(m.ps.confirmed) > 0 {
				t.Error("confirmed while a message is on its way")
			}
			if late {
				m.confirmed(0, 0, "0 logins and 1 deliveries")
				close(m.old.wait)
			} else {
				close(m.old.wait)
				m.confirmed(0, 0, "")
			}
			if got := <-done; got["anna"] != 250 {
				t.Errorf("%v", got)
			}
		})
	}
}

func TestLMTPShutdownEndsWhatRuns(t *testing.T) {
	inMailWorld(t, nil, func(m *mailWorld) {
		m.old.wait = make(chan struct{})
		done := make(chan map[string]int)
		go func() { done <- m.deliver(testMail, "anna") }()
		synctest.Wait()
		down := make(chan error)
		go func() { down <- m.p.Shutdown(context.Background()) }()
		synctest.Wait()
		close(m.old.wait)
		if got := <-done; got["anna"] != 250 {
			t.Errorf("%v", got)
		}
		if err := <-down; err != nil {
			t.Error(err)
		}
	})
}
