package migrate

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"mailferry/backend"
	"mailferry/internal/mailtest"
	"mailferry/migrate/target"
)

// TestForeignSubscriptions: behind a second run the target is subscribed to what
// the source is; what its own user subscribed stays.
func TestForeignSubscriptions(t *testing.T) {
	t.Parallel()
	for _, k := range []struct {
		name string
		to   func(testing.TB) *peer
	}{
		{"dovecot", func(t testing.TB) *peer { return dovecotPeer(t, "to", mailtest.DovecotOptions{}) }},
		{"cyrus", func(t testing.TB) *peer { return cyrusPeer(t, "to", mailtest.CyrusOptions{}, "anna") }},
	} {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			testForeignSubscriptions(t, dovecotPeer(t, "from", mailtest.DovecotOptions{}), k.to(t))
		})
	}
}

func testForeignSubscriptions(t *testing.T, from, to *peer) {
	ofTarget, err := (&source{store: to.store, user: "anna"}).dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer ofTarget.Close()
	acct, err := ofTarget.Survey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	own := acct.Namespaces.Personal[0]
	at := func(p *peer, cmds ...string) {
		c := mailtest.DialIMAP(t, p.judge.Addr)
		defer c.Close()
		c.Login("anna", p.judge.Password)
		for _, cmd := range cmds {
			if p == to {
				verb, box, _ := strings.Cut(cmd, " ")
				cmd = verb + " " + own.Prefix + strings.ReplaceAll(box, "/", own.Delimiter)
			}
			c.Cmd("%s", cmd)
		}
	}
	const mail = "APPEND %s {24+}\r\nSubject: one\r\n\r\nmail 1\r\n"
	file := func(box string) string { return strings.Replace(mail, "%s", box, 1) }
	var setup []string
	for _, box := range []string{"Keep", "Dull", "Dull2", "Old", "Tree", "Tree/Leaf", "Both"} {
		setup = append(setup, "CREATE "+box, file(box), "SUBSCRIBE "+box)
	}
	at(from, append(setup, "CREATE Own", file("Own"))...)
	at(to, "CREATE Own", "SUBSCRIBE Own", "CREATE Both", "SUBSCRIBE Both", "CREATE Alone", "SUBSCRIBE Alone")

	dir := t.TempDir()
	e := foreignEngine(t, dir, from.store, to.store, nil)
	run := func(rules target.Rules, want ...string) {
		t.Helper()
		st := wait(t, e, begin(t, e, BatchSpec{Users: []string{"anna"}, To: "to", Rules: &rules}))
		if st.Failed() > 0 {
			t.Fatalf("%+v", st.Users)
		}
		if cert, err := e.Certificate("anna"); err != nil || len(cert.Exception) > 0 && !rules.DeleteFolders {
			t.Errorf("%v: %+v", err, cert)
		}
		acct, err := ofTarget.Survey(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range acct.Subscriptions {
			if name := strings.TrimPrefix(s.Name, own.Prefix); name != "INBOX" { // which some servers subscribe themselves
				got = append(got, strings.ReplaceAll(name, own.Delimiter, "/"))
			}
		}
		slices.Sort(got)
		if slices.Sort(want); !slices.Equal(got, want) {
			t.Errorf("the target is subscribed to\n%q, not\n%q", got, want)
		}
	}
	run(target.Rules{}, "Alone", "Both", "Dull", "Dull2", "Keep", "Old", "Own", "Tree", "Tree/Leaf")

	at(from, "UNSUBSCRIBE Dull", "UNSUBSCRIBE Both", // the second was subscribed before
		"RENAME Old New", "UNSUBSCRIBE Old", "SUBSCRIBE New",
		"RENAME Tree Wood", "UNSUBSCRIBE Tree", "UNSUBSCRIBE Tree/Leaf", "SUBSCRIBE Wood", "SUBSCRIBE Wood/Leaf")
	run(target.Rules{}, "Alone", "Both", "Dull2", "Keep", "New", "Own", "Wood", "Wood/Leaf")

	// Behind a restart it is still known whose they are.
	e.Close()
	e = foreignEngine(t, dir, from.store, to.store, nil)
	if err := e.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	at(from, "UNSUBSCRIBE Dull2", "UNSUBSCRIBE Keep")
	run(target.Rules{NoSubscribe: true}, "Alone", "Both", "Dull2", "Keep", "New", "Own", "Wood", "Wood/Leaf")
	at(to, "UNSUBSCRIBE Dull2") // by its user, who was faster
	run(target.Rules{}, "Alone", "Both", "New", "Own", "Wood", "Wood/Leaf")
	at(to, "SUBSCRIBE Keep") // which is his own from now on
	run(target.Rules{}, "Alone", "Both", "Keep", "New", "Own", "Wood", "Wood/Leaf")

	// What the source's user has deleted, and is subscribed to still, and not.
	at(from, "DELETE New", "DELETE Wood/Leaf", "UNSUBSCRIBE Wood/Leaf")
	at(to, "SUBSCRIBE Wood/Leaf")
	want := []string{"Both", "Keep", "Own", "Wood"}
	if to.store.Type != backend.StoreCyrus { // which lets no subscription outlive its mailbox
		want = append(want, "New")
	}
	run(target.Rules{DeleteFolders: true}, want...)
}

// TestForeignFilters: a mailbox that a filter leaves out is not one that the
// source has no more.
func TestForeignFilters(t *testing.T) {
	t.Parallel()
	from, to := dovecotPeer(t, "from", mailtest.DovecotOptions{}), dovecotPeer(t, "to", mailtest.DovecotOptions{})
	at := func(p *peer, cmds ...string) {
		c := mailtest.DialIMAP(t, p.judge.Addr)
		defer c.Close()
		c.Login("anna", p.judge.Password)
		for _, cmd := range cmds {
			c.Cmd("%s", cmd)
		}
	}
	at(from, "CREATE A", "APPEND A {24+}\r\nSubject: one\r\n\r\nmail 1\r\n", "CREATE B", "APPEND B {24+}\r\nSubject: two\r\n\r\nmail 2\r\n", "CREATE Empty", "CREATE Later")
	at(to, "CREATE Later", "CREATE Extra")
	e := foreignEngine(t, t.TempDir(), from.store, to.store, nil)
	run := func(only string, rules target.Rules, dry bool, want ...string) *Certificate {
		t.Helper()
		spec := BatchSpec{Users: []string{"anna"}, To: "to", Rules: &rules, Dry: dry}
		if only != "" {
			spec.Filter = &Filter{Mailboxes: []string{only}}
		}
		if st := wait(t, e, begin(t, e, spec)); st.Failed() > 0 {
			t.Fatalf("%+v", st.Users)
		}
		c, err := (&source{store: to.store, user: "anna"}).dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		acct, err := c.Survey(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range acct.Mailboxes {
			got = append(got, fmt.Sprint(m.Name, m.Status.Messages))
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("only %q: %q, not %q", only, got, want)
		}
		cert, err := e.Certificate("anna")
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	run("A", target.Rules{}, false, "A1", "Extra0", "INBOX0", "Later0")
	run("Empty", target.Rules{}, false, "A1", "Empty0", "Extra0", "INBOX0", "Later0")
	run("B", target.Rules{}, false, "A1", "B1", "Empty0", "Extra0", "INBOX0", "Later0")
	cert := run("A", target.Rules{DeleteFolders: true}, true, "A1", "B1", "Empty0", "Extra0", "INBOX0", "Later0")
	if cert.Side == nil || !slices.Equal(cert.Side.Changes, []string{`mailbox "Extra" deleted`}) {
		t.Errorf("a dry run tells of %+v", cert.Side)
	}
	run("A", target.Rules{DeleteFolders: true}, false, "A1", "B1", "Empty0", "INBOX0", "Later0")
}
