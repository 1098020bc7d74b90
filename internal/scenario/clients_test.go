package scenario

import (
	"slices"
	"testing"

	"mailferry/internal/mailtest"
)

// clients are real mail clients with a copy of a user's mail from before the
// move.
type clients struct {
	node *node
	all  []*client
}

type client struct {
	*mailtest.MailClient
	user string
}

// newClients gives mbsync and offlineimap to some users of each store.
func newClients(t *testing.T, f *farm, n *node) *clients {
	t.Helper()
	cs := &clients{node: n}
	for _, s := range f.stores {
		for i, u := range []string{s.users[0], s.users[len(s.users)-1]} {
			a := mailtest.Account{Addr: n.imap, User: u, Password: password}
			cs.all = append(cs.all, &client{mailtest.NewMbsync(t, a), u})
			if i == 1 {
				cs.all = append(cs.all, &client{mailtest.NewOfflineIMAP(t, a), u})
			}
		}
	}
	return cs
}

// syncAll fills the clients' copies through the proxy.
func (cs *clients) syncAll(t *testing.T) {
	t.Helper()
	for _, c := range cs.all {
		if s := c.Run(t); s.New < 250 {
			t.Fatalf("%s of %s fetched only %d messages:\n%s", c.Name, c.user, s.New, s.Output)
		}
	}
}

// checkNothingFetchedAgain synchronises once more and counts at our store how
// many bodies that took: one for each message that is new, none for users who
// got no mail.
func (cs *clients) checkNothingFetchedAgain(t *testing.T, quiet []string) {
	t.Helper()
	for _, c := range cs.all {
		before := cs.node.bodiesFetched(t)
		s := c.Run(t)
		bodies := cs.node.bodiesFetched(t) - before
		t.Logf("%s of %s after the move: %d new messages, %d bodies fetched", c.Name, c.user, s.New, bodies)
		switch {
		case slices.Contains(quiet, c.user) && (bodies != 0 || s.New != 0):
			t.Errorf("%s of %s, who got no mail, fetched %d bodies:\n%s", c.Name, c.user, bodies, s.Output)
		case bodies != s.New:
			t.Errorf("%s of %s fetched %d bodies for %d new messages:\n%s", c.Name, c.user, bodies, s.New, s.Output)
		case s.Gone != 0:
			t.Errorf("%s of %s dropped %d messages:\n%s", c.Name, c.user, s.Gone, s.Output)
		}
	}
}
