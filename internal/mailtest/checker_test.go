package mailtest

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestCheckerAgainstStores(t *testing.T) {
	t.Run("dovecot", func(t *testing.T) {
		d := StartDovecot(t, DovecotOptions{})
		checkStore(t, d.IMAP, d.LMTP, "secret", "", "Other")
	})
	t.Run("dovecot-qresync", func(t *testing.T) {
		d := StartDovecot(t, DovecotOptions{Format: "sdbox"})
		checkStore(t, d.IMAP, d.LMTP, "secret", "QRESYNC", "Other")
	})
	t.Run("cyrus", func(t *testing.T) {
		y := StartCyrus(t, CyrusOptions{Users: []string{"anna"}})
		checkStore(t, y.IMAP, y.LMTP, "secret", "", "INBOX.Other")
	})
}

// checkStore lets three clients and a deliverer use one mailbox, while a
// fourth client expunges, and expects no fault.
func checkStore(t *testing.T, imap, lmtp, password, enable, other string) {
	t.Helper()
	c := DialIMAP(t, imap)
	c.Login("anna", password)
	c.Cmd("CREATE %s", Quote(other))
	mail := Generated(30)
	for _, m := range mail.All(t) {
		c.Append("INBOX", `\Seen`, time.Time{}, m)
	}
	start := func(name string) *Checker {
		return NewChecker(t, CheckerOptions{Addr: imap, User: "anna", Password: password, Name: name, Enable: enable,
			Keyword: "$" + name, Others: []string{other}, AppendTo: other, Interval: time.Millisecond})
	}
	idle, work, more := start("idle"), start("work"), start("more")
	idle.Idle()
	work.ReadAndFlag()
	more.ReadAndFlag()
	d := StartDeliverer(t, DelivererOptions{Addr: lmtp, Recipients: []string{"anna"}, PerSecond: 50})
	c.Cmd("SELECT INBOX")
	for range 5 {
		c.Cmd(`STORE 2 +FLAGS.SILENT (\Deleted)`)
		c.Cmd("EXPUNGE")
		d.Await(t, d.Acked()+10)
	}
	journal := d.Stop()
	if !waitFor(30*time.Second, func() bool { return len(work.Report().Acked()) > 20 && len(more.Report().Acked()) > 20 }) {
		t.Error("the clients do nothing")
	}
	idle.AwaitHeard(t, 30*time.Second, Acknowledged(journal)...)
	for _, k := range []*Checker{work, more, idle} {
		r := k.Stop()
		r.Check(t)
		t.Log(r)
	}
	found := MessageIDs(t, c, "INBOX")
	for _, f := range DeliveryFaults(journal, found) {
		t.Error(f)
	}
	for _, w := range work.Stop().Acked() {
		if w.MessageID != "" && MessageIDs(t, c, other)[w.MessageID] != 1 {
			t.Errorf("append %+v is not there", w)
		}
	}
}

// TestCheckerFinds feeds a checker nonsense and expects it to object.
func TestCheckerFinds(t *testing.T) {
	begin := []string{"* OK [UIDVALIDITY 7] x", "* 3 EXISTS", "* 1 FETCH (UID 5 FLAGS ())", "* 2 FETCH (UID 6 FLAGS ($k))"}
	for name, tc := range map[string]struct {
		command string
		lines   []string
		want    string // empty: fine
	}{
		"fine":                {"NOOP", []string{"* 4 EXISTS", "* 1 EXPUNGE", "* 3 EXISTS", "* 3 FETCH (FLAGS (\\Seen) UID 9)"}, ""},
		"exists shrinks":      {"NOOP", []string{"* 2 EXISTS"}, "without EXPUNGE"},
		"expunge in fetch":    {"FETCH", []string{"* 1 EXPUNGE"}, "during FETCH"},
		"expunge in uid":      {"UID FETCH", []string{"* 1 EXPUNGE"}, ""},
		"expunge idle":        {"IDLE", []string{"* 1 EXPUNGE"}, ""},
		"expunge unasked":     {"", []string{"* 1 EXPUNGE"}, "no command"},
		"expunge range":       {"NOOP", []string{"* 4 EXPUNGE"}, "EXPUNGE 4 of 3"},
		"fetch range":         {"FETCH", []string{"* 4 FETCH (UID 12)"}, "FETCH 4 of 3"},
		"uid changes":         {"FETCH", []string{"* 1 FETCH (UID 4)"}, "had UID 5"},
		"uid order":           {"FETCH", []string{"* 3 FETCH (UID 6)"}, "follows UID 6"},
		"uid back":            {"NOOP", []string{"* 2 EXPUNGE", "* 2 FETCH (UID 6)"}, "is back"},
		"other octets":        {"FETCH", []string{"* 1 FETCH (UID 5 BODY[] \"a\")", "* 1 FETCH (UID 5 BODY[] {1}\r\nb)"}, "other octets"},
		"keyword lost":        {"NOOP", []string{"* 2 FETCH (FLAGS ())"}, "acknowledged change"},
		"keyword appears":     {"NOOP", []string{"* 1 FETCH (FLAGS ($k))"}, "acknowledged change"},
		"uidvalidity":         {"NOOP", []string{"* OK [UIDVALIDITY 8] x"}, "UIDVALIDITY was 7"},
		"uidnext falls":       {"NOOP", []string{"* OK [UIDNEXT 6] x"}, "UIDNEXT was 7"},
		"wrong tag":           {"NOOP", []string{"c9 OK done"}, "tag c9"},
		"unasked tag":         {"", []string{"c1 OK done"}, "tag c1"},
		"bye":                 {"NOOP", []string{"* BYE x"}, "BYE"},
		"vanished":            {"NOOP", []string{"* VANISHED 5"}, "QRESYNC"},
		"search out of range": {"SEARCH", []string{"* SEARCH 1 9"}, "found 9 of 3"},
		"bad syntax":          {"FETCH", []string{"* 1 FETCH (UID)"}, "syntax"},
		"unknown":             {"NOOP", []string{"* FROB"}, "unknown"},
		"continuation":        {"", []string{"+ go"}, "continuation"},
	} {
		t.Run(name, func(t *testing.T) {
			c := &Checker{o: CheckerOptions{Keyword: "$k"}, boxes: map[string]*box{}, current: newBox("INBOX", "$k", false)}
			c.current.validity = 7
			s := &session{command: "SELECT", tag: "c1", tagged: make(chan reply, 1), plus: make(chan struct{}, 1), grew: make(chan struct{}, 1)}
			c.report.Pauses = []Pause{{}}
			for _, l := range begin {
				if err := c.take(s, l); err != nil {
					t.Fatal(l, err)
				}
			}
			s.command = tc.command
			var err error
			for _, l := range tc.lines {
				if err == nil {
					err = c.take(s, l)
				}
			}
			if got := fmt.Sprint(err); tc.want == "" && err != nil || !strings.Contains(got, tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// TestCheckerComesBack kills the server under working clients.
func TestCheckerComesBack(t *testing.T) {
	d := StartDovecot(t, DovecotOptions{Format: "sdbox"}) // a killed maildir leaves dot locks
	c := DialIMAP(t, d.IMAP)
	c.Login("anna", "secret")
	for _, m := range Generated(10).All(t) {
		c.Append("INBOX", "", time.Time{}, m)
	}
	start := func(name string, o CheckerOptions) *Checker {
		o.Addr, o.User, o.Password, o.Name, o.Keyword, o.Interval = d.IMAP, "anna", "secret", name, "$"+name, time.Millisecond
		o.NoExpunges = true
		return NewChecker(t, o)
	}
	idle, work := start("idle", CheckerOptions{Reconnect: true}), start("work", CheckerOptions{Reconnect: true, AppendTo: "INBOX"})
	strict := start("strict", CheckerOptions{})
	idle.Idle()
	work.ReadAndFlag()
	strict.ReadAndFlag()
	deliver := StartDeliverer(t, DelivererOptions{Addr: d.LMTP, Recipients: []string{"anna"}, PerSecond: 50})
	for round := range 3 {
		deliver.Await(t, deliver.Acked()+10)
		d.Kill()
		d.Start(t)
		if !waitFor(30*time.Second, func() bool { return work.Report().Reconnects > round && idle.Report().Reconnects > round }) {
			t.Error("the clients do not come back")
		}
	}
	journal := deliver.Stop()
	idle.AwaitHeard(t, 30*time.Second, Acknowledged(journal)...)
	for _, k := range []*Checker{idle, work} {
		k.Stop().Check(t)
		t.Log(k.Stop())
	}
	if r := strict.Stop(); len(r.Faults) == 0 {
		t.Error("a strict client takes a lost connection")
	}
	c = DialIMAP(t, d.IMAP)
	c.Login("anna", "secret")
	for _, f := range DeliveryFaults(journal, MessageIDs(t, c, "INBOX")) {
		t.Error(f)
	}
}
