package migrate

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"mailferry/backend"
	"mailferry/cluster"
	"mailferry/internal/mailtest"
	"mailferry/store"
)

// openStore opens our store in a directory that an earlier process may have left.
func openStore(t testing.TB, dir string) (st *store.Store, end func()) {
	t.Helper()
	n, err := cluster.Open(cluster.Options{NodeID: 1, Dir: dir, Shards: 2, Machine: store.NewMachine(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if st, err = store.New(store.Options{Engine: n}); err != nil {
		t.Fatal(err)
	}
	return st, func() { st.Close(); n.Close(context.Background()) }
}

// storeIn is openStore up to the test's end.
func storeIn(t testing.TB, dir string) *store.Store {
	t.Helper()
	st, end := openStore(t, dir)
	t.Cleanup(end)
	return st
}

// killedFollower is what the child of TestKillsAroundRenames follows.
type killedFollower struct {
	Store, Engine, From, Secret string
}

// TestKilledFollowerChild is the process that TestKillsAroundRenames kills: it
// copies one user again and again.
func TestKilledFollowerChild(t *testing.T) {
	order := os.Getenv("KILLED_FOLLOWER")
	if order == "" {
		t.Skip("run by TestKillsAroundRenames")
	}
	var k killedFollower
	if err := json.Unmarshal([]byte(order), &k); err != nil {
		t.Fatal(err)
	}
	from := storeAt(t, backend.StoreDovecot, k.From, backend.Login{Mode: backend.LoginMaster, User: "master", Secret: backend.Secret(k.Secret)})
	e, err := New(Options{Dir: k.Engine, Importer: storeIn(t, k.Store).Importer(), Placements: newFakePlacements(), Timing: Timing{BackOff: time.Millisecond}, NoResume: true,
		Stores: map[string]*backend.Store{"old": from, "home": {Name: "home", Type: backend.StoreLocal}},
		Lookup: func(_ context.Context, user string) (backend.Entry, error) {
			return backend.Entry{User: user, Directory: "d", Store: "old", CheckPassword: true}, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(followerRuns)
	for { // until it is killed
		id := start(t, e, BatchSpec{Users: []string{"anna"}, CopyOnly: true, Attempts: 100, POP3: POP3Never, Reread: -1})
		if st := waitUpTo(t, e, id, killedLimit); st.Users[0].State != Ready {
			t.Fatalf("%+v", st.Users)
		}
	}
}

// followerRuns is what the child says when it begins.
const followerRuns = "follower runs"

// TestKillsAroundRenames kills the engine and our store with it (kill -9) at
// random moments while the owner renames, swaps and moves: nothing is lost,
// doubled or mixed.
func TestKillsAroundRenames(t *testing.T) {
	trials := 8
	if mailtest.Soaking() {
		trials = 100
	}
	d := mailtest.StartDovecot(t, mailtest.DovecotOptions{})
	old := &peer{judge: mailtest.Server{Addr: d.IMAP, Password: d.Password},
		store: storeAt(t, backend.StoreDovecot, d.IMAP, backend.Login{Mode: backend.LoginMaster, User: d.MasterUser, Secret: backend.Secret(d.MasterPassword)})}
	k := killedFollower{Store: t.TempDir(), Engine: t.TempDir(), From: d.IMAP, Secret: d.MasterPassword}
	order, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	f := &following{t: t, old: old, user: "anna", c: mailtest.DialIMAP(t, d.IMAP)}
	f.c.Login(f.user, d.Password)
	for _, box := range []string{"INBOX", "A", "B", "A/C"} {
		if box != "INBOX" {
			f.c.Cmd("CREATE %s", box)
		}
		for i := range 80 {
			f.append(box, len(box)*1000+i)
		}
	}
	f.c.Cmd("SELECT INBOX")
	rnd := mailtest.Rand(t)
	for trial := range trials {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestKilledFollowerChild$")
		said := &runningOutput{runs: make(chan struct{})}
		cmd.Stdout, cmd.Stderr = said, said
		cmd.Env = append(os.Environ(), "KILLED_FOLLOWER="+string(order))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		pause := func() {
			select {
			case <-time.After(time.Duration(rnd.Int64N(int64(300 * time.Millisecond)))):
			case err := <-ended:
				t.Fatalf("trial %d: the engine ended by itself: %v\n%s", trial, err, said.text.String())
			}
		}
		select {
		case <-said.runs:
		case <-ended:
			t.Fatalf("trial %d: the engine does not start\n%s", trial, said.text.String())
		}
		pause()
		f.change(trial)
		pause()
		_ = cmd.Process.Kill()
		<-ended
	}
	f.own = serveIMAP(t, storeIn(t, k.Store))
	files, err := filepath.Glob(boxesFile(filepath.Join(k.Engine, idsDir, "*")))
	if err != nil || len(files) != 1 {
		t.Fatalf("files of ids: %v, %v", files, err)
	}
	f.ids = strings.TrimSuffix(files[0], boxesFile(""))
	f.open()
	synced(t, f.a)
	f.judged()
}

// runningOutput collects what a child says until it has ended. It closes runs when
// the child says that it runs.
type runningOutput struct {
	text bytes.Buffer
	runs chan struct{}
	once sync.Once
}

func (o *runningOutput) Write(b []byte) (int, error) {
	n, err := o.text.Write(b)
	if bytes.Contains(o.text.Bytes(), []byte(followerRuns)) {
		o.once.Do(func() { close(o.runs) })
	}
	return n, err
}

// create makes a mailbox, unless Dovecot has made it already: it does so for a
// session that opens a mailbox while that is renamed.
func (f *following) create(name string) {
	f.t.Helper()
	tag := f.c.Tag()
	f.c.Send("%s CREATE %s", tag, name)
	f.c.Expect("^" + tag + " (OK|NO .ALREADYEXISTS)")
}

// change is what the owner does next.
func (f *following) change(n int) {
	f.t.Helper()
	f.c.Cmd("UNSELECT")
	switch n % 4 {
	case 0: // swap
		f.c.Cmd("RENAME A tmp")
		f.c.Cmd("RENAME B A")
		f.c.Cmd("RENAME tmp B")
	case 1: // a new one under the old name
		f.c.Cmd("RENAME A A-%d", n)
		f.create("A")
		f.append("A", 50_000+n)
	case 2:
		f.c.Cmd("SELECT INBOX")
		f.c.Cmd("MOVE 1:8 B")
		f.c.Cmd("COPY 1:5 A")
	case 3:
		f.c.Cmd("SELECT B")
		f.c.Cmd("MOVE 1:4 INBOX")
		f.append("INBOX", 60_000+n)
		f.c.Cmd("UNSELECT")
		f.c.Cmd("RENAME B B-%d", n)
		f.create("B")
	}
	f.c.Cmd("SELECT INBOX")
	f.append("INBOX", 70_000+n)
}
