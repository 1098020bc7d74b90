package migrate

import (
	"context"
	"slices"
	"testing"

	"mailferry/internal/mailtest"
	"mailferry/migrate/target"
)

// TestForeignDeletedSubscriptions: what is deleted at the target because the
// source has it no more takes its subscription along.
func TestForeignDeletedSubscriptions(t *testing.T) {
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
	at(from, "CREATE Keep", "SUBSCRIBE Keep", "CREATE Goes", "SUBSCRIBE Goes")
	at(to, "CREATE Extra", "SUBSCRIBE Extra")
	e := foreignEngine(t, t.TempDir(), from.store, to.store, nil)
	run := func() {
		t.Helper()
		rules := &target.Rules{DeleteFolders: true, MassDelete: true}
		if st := wait(t, e, begin(t, e, BatchSpec{Users: []string{"anna"}, To: "to", Rules: rules})); st.Failed() > 0 {
			t.Fatalf("%+v", st.Users)
		}
	}
	subscribed := func() (names []string) {
		c, err := (&source{store: to.store, user: "anna"}).dial(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		a, err := c.Survey(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range a.Subscriptions {
			names = append(names, s.Name)
		}
		slices.Sort(names)
		return names
	}
	run()
	if got := subscribed(); !slices.Equal(got, []string{"Goes", "Keep"}) {
		t.Errorf("after the first run: %q", got)
	}
	at(from, "UNSUBSCRIBE Goes", "DELETE Goes")
	run()
	if got := subscribed(); !slices.Equal(got, []string{"Keep"}) {
		t.Errorf("after Goes went: %q", got)
	}
}
