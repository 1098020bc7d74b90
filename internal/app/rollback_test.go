package app

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
	"github.com/emersion/go-smtp"

	"mailferry/internal/admin"
	"mailferry/internal/mailtest"
	"mailferry/migrate"
)

// soak moves a user, and leaves the old store following.
func (f *farm) soak(t *testing.T, c *admin.Client, user string) {
	t.Helper()
	b, err := c.Migrations().Start(t.Context(), admin.MoveRequest{Users: []string{user}, To: "home", Soak: "1h"})
	if err == nil {
		err = c.Migrations().Watch(t.Context(), b.ID, func(next admin.Batch) error {
			b = next
			return nil
		})
	}
	if err != nil || b.States["soaking"] != 1 {
		t.Fatalf("move of %s: %+v, %v", user, b, err)
	}
}

// subjects are a user's mail in INBOX by UID.
func subjects(t *testing.T, c *imapclient.Client) (*imap.SelectData, map[imap.UID]string) {
	t.Helper()
	box, err := c.Select("INBOX", nil).Wait()
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[imap.UID]string)
	if box.NumMessages > 0 {
		got, err := c.Fetch(imap.UIDSet{{Start: 1, Stop: 0}}, &imap.FetchOptions{UID: true, Envelope: true}).Collect()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range got {
			out[m.UID] = m.Envelope.Subject
		}
	}
	return box, out
}

// TestRollBackWhileConnected: a user is moved, soaks, and is brought back, with
// sessions open and mail coming by LMTP all the while. Nothing is lost or
// doubled, UIDs hold, a session without a mailbox goes on on its connection, and
// one with a mailbox is told to log in again.
func TestRollBackWhileConnected(t *testing.T) {
	f := startFarm(t, "anna")
	f.deliver(t, "anna@example.org", "before")
	c := admin.NewClient(f.data)
	defer c.Close()
	bare := f.login(t, "anna", "secret", nil)
	before := f.login(t, "anna", "secret", nil)
	old, _ := subjects(t, before)
	before.Close()
	mbsync := mailtest.NewMbsync(t, mailtest.Account{Addr: f.node.Addr("imap"), User: "anna", Password: "secret"})
	mbsync.Run(t)

	// Mail comes until the end; what was acknowledged has to be there.
	sent := []string{"before"}
	stop := make(chan struct{})
	var mu sync.Mutex
	var deliveries sync.WaitGroup
	deliveries.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			subject := fmt.Sprintf("mail %d", n)
			if err := f.send("anna@example.org", subject); err != nil {
				t.Errorf("delivery: %v", err)
				return
			}
			mu.Lock()
			sent = append(sent, subject)
			mu.Unlock()
		}
	})

	f.soak(t, c, "anna")
	var bye sync.Once
	closed := make(chan struct{})
	reader := f.login(t, "anna", "secret", &imapclient.Options{DebugWriter: onLine("* BYE ", func() { bye.Do(func() { close(closed) }) })})
	box, _ := subjects(t, reader)
	if box.UIDValidity != old.UIDValidity {
		t.Errorf("UIDVALIDITY %d became %d", old.UIDValidity, box.UIDValidity)
	}
	if _, err := reader.Store(imap.UIDSetNum(1), &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.FlagFlagged}}, nil).Collect(); err != nil {
		t.Fatal(err)
	}
	synced := mbsync.Run(t)
	if synced.Gone != 0 {
		t.Errorf("mbsync after the move drops mail: %+v", synced)
	}

	order, err := c.Migrations().Rollback(t.Context(), admin.SoakOrder{Users: []string{"anna"}})
	if err != nil {
		t.Fatal(err)
	}
	var ended []admin.Move
	err = c.Migrations().AwaitOrders(t.Context(), order, func(m admin.Move) error {
		ended = append(ended, m)
		return nil
	})
	if err != nil || len(ended) != 1 || ended[0].User != "anna" || ended[0].State != "rolled back" || ended[0].Failed {
		t.Fatalf("outcome %+v, %v", ended, err)
	}
	if b, err := c.Migrations().Batch(t.Context(), order.Batch); err != nil || b.RolledBack != 1 || b.Failed != 0 || b.Moved != 0 {
		t.Errorf("batch behind the roll-back %+v, %v", b, err)
	}
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("the session with a mailbox is not told to log in again")
	}
	if _, err := bare.List("", "*", nil).Collect(); err != nil {
		t.Errorf("the session without a mailbox does not go on: %v", err)
	}
	if host := f.ldap.MailHost(t, "anna"); host != "old1" {
		t.Errorf("the directory says %q", host)
	}
	f.deliver(t, "anna@example.org", "after")
	close(stop)
	deliveries.Wait()
	sent = append(sent, "after")

	bare.Close()
	last := f.login(t, "anna", "secret", nil)
	back, got := subjects(t, last)
	last.Close()
	if back.UIDValidity != old.UIDValidity {
		t.Errorf("UIDVALIDITY %d became %d on the way there and back", old.UIDValidity, back.UIDValidity)
	}
	var have []string
	for _, s := range got {
		have = append(have, s)
	}
	slices.Sort(have)
	slices.Sort(sent)
	if !slices.Equal(have, sent) {
		t.Errorf("delivered %q, found %q", sent, have)
	}
	bodies := f.old.Fetched(t, "anna").Bodies
	again := mbsync.Run(t)
	if n := f.old.Fetched(t, "anna").Bodies - bodies; n != again.New || again.Gone != 0 {
		t.Errorf("mbsync with its state from before fetched %d bodies for %d new messages, and dropped %d:\n%s", n, again.New, again.Gone, again.Output)
	}
	t.Logf("%d messages, of them %d new to mbsync behind the roll-back", len(got), again.New)

	text, err := c.Migrations().Report(t.Context(), "anna")
	if err != nil {
		t.Fatal(err)
	}
	var cert migrate.Certificate
	if err := json.Unmarshal(text, &cert); err != nil || cert.Soak == nil || cert.Soak.RolledBack == nil || len(cert.Soak.Exceptions) > 0 ||
		cert.Soak.Back == nil || cert.Soak.Back.Attached != 1 || cert.Soak.Back.Closed != 1 {
		t.Errorf("report: %s, %v", text, err)
	}
}

// TestFinalise: mail that comes late to the old store while a user soaks is
// carried over once; the end of the soak is the end of the way back.
func TestFinalise(t *testing.T) {
	f := startFarm(t, "anna")
	f.deliver(t, "anna@example.org", "before")
	c := admin.NewClient(f.data)
	defer c.Close()
	f.soak(t, c, "anna")
	conn, err := net.Dial("tcp", f.old.LMTP) // somebody who does not go through us
	if err != nil {
		t.Fatal(err)
	}
	direct := smtp.NewClientLMTP(conn)
	defer direct.Close()
	if err := direct.SendMail("a@example.org", []string{"anna@example.org"}, strings.NewReader("Subject: late\r\n\r\nHello.\r\n")); err != nil {
		t.Fatal(err)
	}
	order, err := c.Migrations().Finalise(t.Context(), admin.SoakOrder{Users: []string{"anna"}}) // looks once more
	if err != nil {
		t.Fatal(err)
	}
	err = c.Migrations().AwaitOrders(t.Context(), order, func(m admin.Move) error {
		if m.State != "final" {
			t.Errorf("finalised: %+v", m)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, got := subjects(t, f.login(t, "anna", "secret", nil)); len(got) != 2 || got[2] != "late" {
		t.Errorf("behind the soak: %v", got)
	}
	if _, err := c.Migrations().Rollback(t.Context(), admin.SoakOrder{Users: []string{"anna"}}); err == nil {
		t.Error("a final user is rolled back")
	}
}

// onLine calls found when a line begins with prefix.
func onLine(prefix string, found func()) io.Writer { return &lineWatch{prefix: prefix, found: found} }

type lineWatch struct {
	mu     sync.Mutex
	prefix string
	found  func()
	line   []byte // the beginning of the last one
}

func (w *lineWatch) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range p {
		switch {
		case b == '\n':
			w.line = w.line[:0]
		case len(w.line) < len(w.prefix):
			if w.line = append(w.line, b); string(w.line) == w.prefix {
				w.found()
			}
		}
	}
	return len(p), nil
}
