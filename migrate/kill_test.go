package migrate

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"mailferry/backend"
	"mailferry/backend/remote"
	"mailferry/internal/mailtest"
)

// killedLimit is how long a copy may take between stores that were killed. A
// session of Dovecot's waits two minutes, deaf to its client, for a lock file
// that a killed one left without its number, and the engine gives up on silence
// after remote.ProgressTimeout: what matters here is that it gets there by itself.
const killedLimit = 2*time.Minute + 2*remote.ProgressTimeout

// killTrials is the table of what is killed (-9), between which stores, and how
// often: short in make test, soak in make soak. The engine and our own store are
// one process.
var killTrials = []struct {
	from, killed, to string
	short, soak      int
}{
	{"dovecot", "engine", "own", 5, 110},
	{"cyrus", "engine", "own", 3, 50},
	{"dovecot", "source", "own", 4, 70},
	{"cyrus", "source", "own", 3, 50},
	{"dovecot", "engine", "dovecot", 5, 80},
	{"dovecot", "source", "dovecot", 4, 50},
	{"dovecot", "target", "dovecot", 6, 100},
	{"dovecot", "engine", "cyrus", 3, 20},
	{"dovecot", "target", "cyrus", 3, 40},
}

// TestKillTrials kills the engine, the source and the target, with -9, while a
// small mailbox is copied or moved: when a random octet has passed between them.
// What was killed starts again, the rest is left to itself, and a judge who shares
// no code with us looks: nothing is lost, doubled or changed. A trial counts only
// if the work was not done by the kill. Each trial has a seed of its own: SEED=N
// begins with it.
func TestKillTrials(t *testing.T) {
	for _, k := range killTrials {
		n := k.short
		if mailtest.Soaking() {
			n = k.soak
		}
		t.Run(fmt.Sprintf("%s of %s to %s", k.killed, k.from, k.to), func(t *testing.T) {
			t.Parallel()
			newKillRig(t, k.from, k.killed, k.to).run(t, n)
		})
	}
}

// TestKillTrialsAreTold: the table of docs/migration.md is the one above.
func TestKillTrialsAreTold(t *testing.T) {
	text, err := os.ReadFile("../docs/migration.md")
	if err != nil {
		t.Fatal(err)
	}
	short, soak := 0, 0
	for _, k := range killTrials {
		short, soak = short+k.short, soak+k.soak
		if row := fmt.Sprintf("\n| %s | %s | %s | %d | %d |\n", k.from, k.killed, k.to, k.short, k.soak); !bytes.Contains(text, []byte(row)) {
			t.Errorf("no row %q", row)
		}
	}
	if sum := fmt.Sprintf("\n| | | | %d | %d |\n", short, soak); !bytes.Contains(text, []byte(sum)) {
		t.Errorf("no row %q", sum)
	}
}

// killedPeer is a real store that can die, behind a relay.
type killedPeer struct {
	peer
	relay  *mailtest.Relay
	kill   func()
	start  func(testing.TB)
	forget func(testing.TB) // the user's mail
}

func newKilledPeer(t *testing.T, name, kind string) *killedPeer {
	var p *killedPeer
	switch kind {
	case "dovecot":
		d := mailtest.StartDovecot(t, mailtest.DovecotOptions{})
		p = &killedPeer{relay: mailtest.NewRelay(t, d.IMAP), kill: d.Kill, start: d.Start,
			forget: func(t testing.TB) { d.Forget(t, "anna") }}
		p.judge = mailtest.Server{Addr: d.IMAP, Password: d.Password}
		p.store = storeAt(t, backend.StoreDovecot, p.relay.Addr,
			backend.Login{Mode: backend.LoginMaster, User: d.MasterUser, Secret: backend.Secret(d.MasterPassword)})
	case "cyrus":
		c := mailtest.StartCyrus(t, mailtest.CyrusOptions{Users: []string{"anna"}, Extra: "munge8bit: no"})
		p = &killedPeer{relay: mailtest.NewRelay(t, c.IMAP), kill: c.Kill, start: c.Start,
			forget: func(t testing.TB) { c.Forget(t, "anna") }}
		p.judge = mailtest.Server{Addr: c.IMAP, Password: c.Password}
		p.store = storeAt(t, backend.StoreCyrus, p.relay.Addr,
			backend.Login{Mode: backend.LoginAuthzid, User: c.Admin, Secret: backend.Secret(c.AdminPassword)})
	}
	p.store.Name = name
	for _, d := range []mailtest.Direction{mailtest.ToServer, mailtest.ToClient} {
		p.relay.Delay(d, time.Millisecond) // so that a kill has something to hit
	}
	return p
}

// killOrder is what the child has to do.
type killOrder struct {
	Dir      string // the engine's, with our store and the placements
	From, To *killedStore
}

// killedStore is a store as the child reaches it; backend.Store does not tell its
// secret.
type killedStore struct {
	Type   backend.StoreType
	Addr   string
	Mode   backend.LoginMode
	Admin  string
	Secret string
}

func (p *killedPeer) told() *killedStore {
	return &killedStore{p.store.Type, p.relay.Addr, p.store.Login.Mode, p.store.Login.User, string(p.store.Login.Secret)}
}

func (k *killedStore) at(t testing.TB, name string) *backend.Store {
	s := storeAt(t, k.Type, k.Addr, backend.Login{Mode: k.Mode, User: k.Admin, Secret: backend.Secret(k.Secret)})
	s.Name = name
	return s
}

// TestKilledChild is the process with the engine that TestKillTrials kills: it
// moves anna into our store, or copies her to a foreign one, or goes on with that.
func TestKilledChild(t *testing.T) {
	text := os.Getenv("KILLED_ORDER")
	if text == "" {
		t.Skip("run by TestKillTrials")
	}
	var k killOrder
	if err := json.Unmarshal([]byte(text), &k); err != nil {
		t.Fatal(err)
	}
	o := Options{Dir: filepath.Join(k.Dir, "engine"), Stores: map[string]*backend.Store{"from": k.From.at(t, "from")},
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo})),
		Timing: Timing{BackOff: 5 * time.Millisecond, Settle: 200 * time.Millisecond},
		Lookup: func(_ context.Context, user string) (backend.Entry, error) {
			return backend.Entry{User: user, Directory: "d", Store: "from", CheckPassword: true}, nil
		}}
	places := &keptPlacements{fakePlacements: newFakePlacements(), file: filepath.Join(k.Dir, "placements")}
	places.read(t)
	o.Placements = places
	end := Final
	if k.To != nil {
		o.Stores["to"] = k.To.at(t, "to")
		end = Ready
	} else {
		o.Stores["to"] = &backend.Store{Name: "to", Type: backend.StoreLocal}
		o.Importer = storeIn(t, filepath.Join(k.Dir, "store")).Importer()
	}
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if err := e.Resume(context.Background()); err != nil {
		t.Fatal(err)
	}
	all, err := e.Batches(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		begin(t, e, BatchSpec{ID: "kill", Users: []string{"anna"}, To: "to", Attempts: 200, POP3: POP3Never})
	}
	if st := waitUpTo(t, e, "kill", killedLimit); st.Users[0].State != end {
		t.Fatalf("%+v", st.Users)
	}
}

// keptPlacements are on disk before Swap returns.
type keptPlacements struct {
	*fakePlacements
	file string
}

func (p *keptPlacements) read(t testing.TB) {
	b, err := os.ReadFile(p.file)
	if os.IsNotExist(err) {
		return
	}
	if err == nil {
		err = json.Unmarshal(b, &p.m)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (p *keptPlacements) Swap(ctx context.Context, pl backend.Placement) error {
	if err := p.fakePlacements.Swap(ctx, pl); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	b, err := json.Marshal(p.m)
	if err == nil {
		err = os.WriteFile(p.file+".new", b, 0o600)
	}
	if err != nil {
		return err
	}
	return os.Rename(p.file+".new", p.file)
}

// killRig runs the trials of one line of the table.
type killRig struct {
	killed   string
	from, to *killedPeer // to is nil: our own store
	judge    *mailtest.Judge
	manifest string
	octets   [2][2]int64 // that an undisturbed run passes, by peer and direction
	lost     int         // messages
	doubled  int
	changed  int
	phases   map[string]int // in which the engine was killed, as the journal and the placement say
}

func newKillRig(t *testing.T, from, killed, to string) *killRig {
	r := &killRig{killed: killed, phases: make(map[string]int), judge: mailtest.NewJudge(t), from: newKilledPeer(t, "from", from)}
	if to != "own" {
		r.to = newKilledPeer(t, "to", to)
	}
	r.manifest = r.judge.Load(t, r.from.judge, "anna", "-messages", "60", "-big", "0")
	return r
}

func (r *killRig) peers() []*killedPeer {
	if r.to == nil {
		return []*killedPeer{r.from}
	}
	return []*killedPeer{r.from, r.to}
}

func (r *killRig) run(t *testing.T, trials int) {
	seed := mailtest.Seed(t)
	before := [2][2]int64{}
	for n, p := range r.peers() {
		before[n] = [2]int64{p.relay.Octets(mailtest.ToServer), p.relay.Octets(mailtest.ToClient)}
	}
	r.trial(t, nil)
	for n, p := range r.peers() {
		for d := range before[n] {
			r.octets[n][d] = p.relay.Octets(mailtest.Direction(d)) - before[n][d]
		}
	}
	began := time.Now()
	hits, tries := 0, uint64(0)
	for ; hits < trials && tries < uint64(2*trials+10); tries++ {
		if r.trial(t, rand.New(rand.NewPCG(seed+tries, 0))) {
			hits++
		}
		if t.Failed() {
			t.Fatalf("trial %d failed: SEED=%d begins with it", tries, seed+tries)
		}
	}
	took := time.Since(began)
	t.Logf("%d of %d kills hit the work: %d messages lost, %d doubled, %d changed; %.1f s a trial %v", hits, tries, r.lost, r.doubled, r.changed,
		took.Seconds()/float64(max(1, tries)), r.phases)
	if hits < trials {
		t.Errorf("only %d kills of %d hit the work", hits, tries)
	}
}

// killMoment is when a trial kills.
type killMoment struct {
	passed <-chan struct{}
	pause  time.Duration
	text   string
}

// moment draws a random octet of those that a run passes. Half of the moments go
// by what the engine says to a store, where a few octets are a step of the work,
// half by the mail.
func (r *killRig) moment(rnd *rand.Rand) killMoment {
	n, d := rnd.IntN(len(r.peers())), mailtest.Direction(rnd.IntN(2))
	at := rnd.Int64N(r.octets[n][d])
	m := killMoment{r.peers()[n].relay.Passed(d, at), time.Duration(rnd.Int64N(int64(4 * time.Millisecond))), ""}
	m.text = fmt.Sprintf("%v behind octet %d of %d, direction %d, of %s", m.pause, at, r.octets[n][d], d, r.peers()[n].store.Name)
	return m
}

// trial is one run with a kill in it, from a target without mail to the judgement,
// and without a kill for no rnd. It reports whether the kill hit.
func (r *killRig) trial(t *testing.T, rnd *rand.Rand) (hit bool) {
	t.Helper()
	dir, err := os.MkdirTemp("", "mailferry-kill-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	order := killOrder{Dir: dir, From: r.from.told()}
	if r.to != nil {
		order.To = r.to.told()
	}
	var at killMoment // none: it never comes
	if rnd != nil {
		at = r.moment(rnd)
	}
	c := startKilledChild(t, order)
	select {
	case <-at.passed:
		<-time.After(at.pause) // the fault's moment, not a wait for something
	case <-c.ended:
	case <-time.After(killedLimit):
		t.Errorf("the work does not end")
		_ = c.cmd.Process.Signal(syscall.SIGQUIT)
	}
	switch {
	case rnd == nil:
	case r.killed == "engine":
		_ = c.cmd.Process.Kill()
		<-c.ended
		if s, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() {
			hit = true
			r.phases[phase(t, dir)]++
			c = startKilledChild(t, order)
		}
	default:
		p := r.from
		if r.killed == "target" {
			p = r.to
		}
		p.kill()
		hit = !c.hasEnded()
		p.start(t)
	}
	<-c.ended
	if c.err != nil {
		t.Errorf("killed %s: %v\n%s", at.text, c.err, c.said.String())
		return hit
	}
	r.look(t, dir, at.text)
	if t.Failed() {
		t.Logf("the last engine said:\n%s", c.said.String())
	}
	return hit
}

// phase is how far a killed engine had come.
func phase(t *testing.T, dir string) string {
	t.Helper()
	if b, err := os.ReadFile(filepath.Join(dir, "placements")); err == nil {
		var places map[string]backend.Placement
		if err := json.Unmarshal(b, &places); err != nil {
			t.Fatal(err)
		}
		switch p := places["anna"]; {
		case p.State == backend.PlacementHolding:
			return "on hold"
		case p.Store == "to":
			return "flipped"
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "engine", "kill", journalName))
	if err != nil {
		return "no batch"
	}
	last := "listed"
	for line := range bytes.Lines(b) {
		var l struct{ Move *Move }
		if json.Unmarshal(line, &l) == nil && l.Move != nil {
			last = l.Move.State.String()
		}
	}
	return last
}

// look judges the target, and empties it.
func (r *killRig) look(t *testing.T, dir, moment string) {
	t.Helper()
	there := mailtest.Server{Password: "x"}
	if r.to != nil {
		r.to.relay.AwaitIdle(t) // what a killed engine had sent counts, too
		there = r.to.judge
	} else {
		st, end := openStore(t, filepath.Join(dir, "store"))
		defer end()
		own := serveIMAP(t, st)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() { _ = own.server.Serve(l) }()
		defer func() { _ = own.server.Shutdown(context.Background()) }()
		there.Addr = l.Addr().String()
	}
	v := r.judge.Verify(t, r.manifest, there, "anna")
	var e exactness
	if err := json.Unmarshal(v.All, &e); err != nil {
		t.Fatal(err)
	}
	m := e.Messages
	r.lost, r.doubled = r.lost+m.Missing, r.doubled+m.Duplicated+m.Extra
	r.changed += m.ChangedHeader + m.ChangedBody + e.Flags.System + e.Flags.Keywords + e.InternalDate.Differ
	same := e.same()
	if r.to != nil {
		same = e.counts.exact() // a foreign store gives UIDs of its own
		r.to.forget(t)
	}
	if !same {
		t.Errorf("killed %s: %+v\n%s", moment, e, v.All)
	}
}

// killedChild is a process with an engine.
type killedChild struct {
	cmd   *exec.Cmd
	said  bytes.Buffer
	ended chan struct{}
	err   error // valid when it has ended
}

func startKilledChild(t *testing.T, order killOrder) *killedChild {
	t.Helper()
	text, err := json.Marshal(order)
	if err != nil {
		t.Fatal(err)
	}
	c := &killedChild{cmd: exec.Command(os.Args[0], "-test.run", "^TestKilledChild$", "-test.v"), ended: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), "KILLED_ORDER="+string(text))
	c.cmd.Stdout, c.cmd.Stderr = io.Writer(&c.said), io.Writer(&c.said)
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.ended)
	}()
	return c
}

func (c *killedChild) hasEnded() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}
