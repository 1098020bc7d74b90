package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"mailferry/backend"
	"mailferry/internal/admin"
)

// played is a migration that goes through fixed states.
type played struct {
	admin.Migrations
	states  []admin.Batch
	started admin.MoveRequest
}

func (p *played) Start(_ context.Context, r admin.MoveRequest) (admin.Batch, error) {
	p.started = r
	if r.To == "nowhere" {
		return admin.Batch{}, backend.NewError(backend.KindInvalid, "no store nowhere")
	}
	return p.states[0], nil
}

func (p *played) Watch(_ context.Context, _ string, fn func(admin.Batch) error) error {
	for _, b := range p.states {
		if err := fn(b); err != nil {
			return err
		}
	}
	return nil
}

// runAgainst runs a command line against a node with these migrations.
func runAgainst(t *testing.T, m admin.Migrations, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	dir := t.TempDir()
	l, err := net.Listen("unix", admin.SocketPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	service := &admin.Service{Migrations: m, Logger: slog.New(slog.DiscardHandler)}
	server := &http.Server{Handler: service.SocketHandler()}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	defer func() {
		server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	var out, errs bytes.Buffer
	c := &cli{stdin: os.Stdin, stdout: &out, stderr: &errs}
	code = c.execute(t.Context(), append(args, "--data", dir))
	return code, out.String(), errs.String()
}

func (p *played) Moves(_ context.Context, q admin.MoveQuery) (admin.MovePage, error) {
	page := admin.MovePage{Next: -1}
	for _, m := range p.states[len(p.states)-1].Moves {
		if m.Failed || !q.Failed {
			page.Moves = append(page.Moves, m)
		}
	}
	return page, nil
}

func (p *played) Batches(context.Context) ([]admin.Batch, error) {
	return p.states[len(p.states)-1:], nil
}

func (p *played) Rollback(_ context.Context, o admin.SoakOrder) (admin.SoakOrder, error) {
	o.Batch = "b1"
	return o, nil
}

func (p *played) AwaitOrders(_ context.Context, _ admin.SoakOrder, fn func(admin.Move) error) error {
	for _, m := range p.states[len(p.states)-1].Moves {
		if err := fn(m); err != nil {
			return err
		}
	}
	return nil
}

func (p *played) Report(_ context.Context, user string) ([]byte, error) {
	exceptions := strings.Repeat(`,{}`, len(user)-len("anna"))
	return []byte(`{"soak": {"exceptions": [{}` + exceptions + `], "back": {"hold": 43000000, "attached": 0, "closed": 1}}}`), nil
}

// A roll-back that was ordered is no failure: it is told as what it is.
func TestRolledBackIsNoFailure(t *testing.T) {
	end := batch(true, ended("anna"), back("anna2"), back("anna33"))
	m := &played{states: []admin.Batch{end}}
	code, out, errs := runAgainst(t, m, "migrate", "watch")
	if code != exitDone || !strings.Contains(out, "1 of 3 users done") || !strings.Contains(out, "2 rolled back; mailferry migrate retry b1 moves them again") {
		t.Errorf("code %d\n%s\n%s", code, out, errs)
	}
	if _, out, _ := runAgainst(t, m, "migrate", "status"); !regexp.MustCompile(`(?m)^b1 .* 3 +1 +0 .* done, 2 rolled back$`).MatchString(out) {
		t.Errorf("status:\n%s", out)
	}
	m.states = []admin.Batch{batch(true, back("anna"), back("anna2"))}
	code, out, errs = runAgainst(t, m, "migrate", "rollback", "anna", "anna2")
	if code != exitDone || !strings.Contains(out, "anna: rolled back, on hold for 43ms, 0 sessions went on, 1 closed, 1 thing could not be brought back as it was: mailferry migrate report anna\n") ||
		!strings.Contains(out, "closed, 2 things could not be brought back as they were: mailferry migrate report anna2\n") {
		t.Errorf("code %d\n%s\n%s", code, out, errs)
	}
	m.states = []admin.Batch{batch(true, back("anna"), admin.Move{User: "anna2", State: "soaking", Done: true, Reason: "not rolled back: no UIDPLUS"})}
	code, out, errs = runAgainst(t, m, "migrate", "rollback", "anna", "anna2")
	if code != exitPartial || !strings.Contains(out, "anna2: soaking, not rolled back: no UIDPLUS\n") || !strings.Contains(errs, "1 of 2 users are not rolled back") {
		t.Errorf("code %d\n%s\n%s", code, out, errs)
	}
}

func back(user string) admin.Move {
	return admin.Move{User: user, State: "rolled back", Done: true}
}

func batch(done bool, moves ...admin.Move) admin.Batch {
	b := admin.Batch{ID: "b1", To: "home", Done: done, Users: len(moves), Moves: moves, States: map[string]int{}}
	for _, m := range moves {
		b.States[m.State]++
		switch {
		case m.Failed:
			b.Failed++
		case m.State == "rolled back":
			b.RolledBack++
		case m.Done:
			b.Moved++
		}
	}
	return b
}

func moving(user, state string) admin.Move {
	return admin.Move{User: user, State: state, Running: true, Messages: 10}
}

func ended(user string) admin.Move {
	return admin.Move{User: user, State: "final", Done: true, Messages: 10, MessagesDone: 10}
}

func failed(user string) admin.Move {
	return admin.Move{User: user, State: "failed", Done: true, Failed: true, Reason: "no such user"}
}

func TestMigrateExitCodes(t *testing.T) {
	tests := []struct {
		name        string
		end         admin.Batch
		code        int
		out, errors string
	}{
		{"all", batch(true, ended("anna"), ended("bob")), exitDone, "2 of 2 users done", ""},
		{"some", batch(true, ended("anna"), failed("bob")), exitPartial, "1 of 2 users done", "bob: no such user"},
		{"none", batch(true, failed("anna"), failed("bob")), exitFailed, "0 of 2 users done", "migrate retry b1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := &played{states: []admin.Batch{batch(false, moving("anna", "copying"), moving("bob", "copying")), tt.end}}
			code, out, errs := runAgainst(t, m, "migrate", "anna", "bob", "--to", "home", "--parallel", "3")
			if code != tt.code || !strings.Contains(out, tt.out) || !strings.Contains(errs, tt.errors) {
				t.Errorf("code %d\n%s\n%s", code, out, errs)
			}
			if !strings.Contains(out, "anna copying 0/10 messages") {
				t.Errorf("no line for a change of state:\n%s", out)
			}
			if m.started.Parallel != 3 || len(m.started.Users) != 2 || m.started.To != "home" {
				t.Errorf("request %+v", m.started)
			}
		})
	}
}

func TestMigrateDetachAndRefusal(t *testing.T) {
	m := &played{states: []admin.Batch{batch(false, moving("anna", "listed"))}}
	if code, out, _ := runAgainst(t, m, "migrate", "anna", "--to", "home", "--detach"); code != exitDone || out != "b1\n" {
		t.Errorf("code %d, %q", code, out)
	}
	if code, _, errs := runAgainst(t, m, "migrate", "anna", "--to", "nowhere"); code != exitUsage || !strings.Contains(errs, "no store nowhere") {
		t.Errorf("code %d, %q", code, errs)
	}
}

func TestWatchedNodeStops(t *testing.T) {
	m := &played{states: []admin.Batch{batch(false, moving("anna", "copying"))}}
	code, _, errs := runAgainst(t, m, "migrate", "watch")
	if code != exitFailed || !strings.Contains(errs, "the batch goes on when the node runs again") {
		t.Errorf("code %d, %q", code, errs)
	}
}

// What all suffer from is told once.
func TestFailuresAreGrouped(t *testing.T) {
	no := func(user, reason string) admin.Move {
		return admin.Move{User: user, State: "failed", Done: true, Failed: true, Reason: reason}
	}
	m := &played{states: []admin.Batch{batch(true, no("anna", `login of "anna": refused`), no("bob", "no such user"), no("carl", `login of "carl": refused`))}}
	_, out, errs := runAgainst(t, m, "migrate", "watch")
	if !strings.HasPrefix(errs, "anna, carl: login of USER: refused\nbob: no such user\n") {
		t.Errorf("%s\n%s", out, errs)
	}
	b := batch(false, moving("anna", "copying"))
	b.Paused, b.Running, b.Left = true, 1, time.Minute
	m.states = []admin.Batch{b}
	if _, out, _ := runAgainst(t, m, "migrate", "status"); !regexp.MustCompile(`(?m)^b1 .* 0% +- +pausing, still at work: 1$`).MatchString(out) {
		t.Errorf("status:\n%s", out)
	}
}

// TestBars draws to a buffer: nothing must hang or be left behind.
func TestBars(t *testing.T) {
	var out bytes.Buffer
	v := newBars(t.Context(), &out)
	for _, b := range []admin.Batch{
		batch(false, moving("anna", "copying"), moving("bob", "listed")),
		batch(false, moving("anna", "following"), moving("bob", "copying")),
		batch(true, ended("anna"), failed("bob")),
	} {
		v.show(&b)
	}
	v.end()
}

// Logs get a line for each change of a state and for the whole every ten seconds;
// large batches only for failures.
func TestLines(t *testing.T) {
	var out strings.Builder
	now := time.Unix(0, 0)
	l := &lines{out: &out, states: map[string]string{}, now: func() time.Time { return now }}
	b := batch(false, moving("anna", "copying"))
	for range 25 {
		l.show(&b)
		now = now.Add(time.Second)
	}
	b.Waits, b.Paused = "2 of 3 users failed", true
	l.show(&b)
	if got := strings.Count(out.String(), "\n"); got != 4 || strings.Count(out.String(), "b1: 0 of 1 users") != 2 || !strings.Contains(out.String(), "mailferry migrate resume b1") {
		t.Errorf("%d lines:\n%s", got, out.String())
	}
	out.Reset()
	big := batch(false, moving("bob", "copying"), failed("carl"))
	big.Users = 5000
	l.show(&big)
	if !strings.Contains(out.String(), "carl failed") || strings.Contains(out.String(), "bob") {
		t.Errorf("a large batch:\n%s", out.String())
	}
}

func TestLeftText(t *testing.T) {
	for want, d := range map[string]time.Duration{"5 s": 5 * time.Second, "3 min": 170 * time.Second, "2 h 05 min": 125 * time.Minute, "2.5 days": 60 * time.Hour} {
		if got := leftText(d); got != want {
			t.Errorf("%v: %q", d, got)
		}
	}
}

func TestUsersFromFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "wave.csv")
	if err := os.WriteFile(file, []byte("user,wave\nanna,1\nbob,1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := &played{states: []admin.Batch{batch(true, ended("anna"), ended("bob"))}}
	if code, _, errs := runAgainst(t, m, "migrate", "--users", file, "--to", "home"); code != exitDone || len(m.started.Users) != 2 {
		t.Errorf("code %d, request %+v, %s", code, m.started, errs)
	}
}
