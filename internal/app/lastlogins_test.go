package app

import (
	"strings"
	"testing"

	"mailferry/backend"
	"mailferry/internal/admin"
)

// Who logged in last moves first, by what the node saw of logins itself, also behind
// a restart.
func TestOrderByLastLogin(t *testing.T) {
	f := startFarm(t, "anna", "bert", "cleo")
	c := admin.NewClient(f.data)
	defer c.Close()
	request := admin.MoveRequest{Users: []string{"anna", "bert", "cleo@example.org"}, To: "home", Dry: true, Order: "last-login"}
	if _, err := c.Migrations().Start(t.Context(), request); !backend.IsKind(err, backend.KindInvalid) || !strings.Contains(err.Error(), "no last login") {
		t.Errorf("nobody has logged in: %v", err)
	}
	f.login(t, "cleo@example.org", "secret", nil).Close() // whom the directory calls cleo
	order := func(users ...string) (got []string) {
		t.Helper()
		request.Users = users
		b, err := c.Migrations().Start(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Migrations().Watch(t.Context(), b.ID, func(admin.Batch) error { return nil }); err != nil {
			t.Fatal(err)
		}
		for m, err := range c.Migrations().AllMoves(t.Context(), admin.MoveQuery{Batch: b.ID}) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, m.User)
		}
		return got
	}
	if got := strings.Join(order("anna", "bert", "cleo"), " "); got != "cleo anna bert" {
		t.Errorf("order %s", got)
	}
	c.Close()
	if err := f.node.Stop(); err != nil {
		t.Fatal(err)
	}
	f.node = f.setup.start(t)
	c = admin.NewClient(f.data)
	if got := strings.Join(order("bert", "cleo@example.org", "anna"), " "); got != "cleo@example.org bert anna" {
		t.Errorf("behind a restart: order %s", got)
	}
}
