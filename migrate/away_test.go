package migrate

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"mailferry/backend"
)

// outage is a network that can be cut off.
type outage struct {
	mu    sync.Mutex
	down  bool
	dials int           // while it was down
	many  chan struct{} // closed behind the twelfth of them
	conns []net.Conn
}

func (o *outage) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.down {
		if o.dials++; o.dials == 12 && o.many != nil {
			close(o.many)
		}
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, network, addr)
	o.conns = append(o.conns, c)
	return c, err
}

func (o *outage) set(down bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range o.conns {
		if c != nil {
			c.Close()
		}
	}
	o.down, o.conns = down, nil
}

func (o *outage) refused() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.dials
}

// A store that goes away while users move fails none of them, those least who were
// not begun; the batch says what it waits for, and goes on by itself.
func TestBatchOutlivesAnOutage(t *testing.T) {
	r := newRig(t, 6, 20)
	o := outage{many: make(chan struct{})}
	r.opt.Dial = o.dial
	var once sync.Once
	r.target.fail = func(op string) error {
		if op == "put" {
			once.Do(func() { o.set(true) })
		}
		return nil
	}
	e := r.engine(t)
	id := start(t, e, BatchSpec{Users: r.users(), Parallel: 2, Attempts: 3})
	<-o.many
	st := until(t, e, id, func(st *BatchStatus) bool { return st.Waits != "" })
	if st.Counts[Failed] > 0 || st.Finished || st.Running != 2 || st.Left != 0 || !strings.Contains(st.Waits, "connection refused") {
		t.Errorf("in the outage: %+v", st)
	}
	o.set(false)
	if st := wait(t, e, id); st.Counts[Final] != 6 || st.Waits != "" {
		t.Errorf("behind the outage: %+v", st)
	}
	r.complete(t)
}

// A store that nobody ever reached, and one that stays away, fail their users.
func TestStoresThatStayAway(t *testing.T) {
	r := newRig(t, 2, 5)
	var o outage
	o.down = true
	r.opt.Dial = o.dial
	e := r.engine(t)
	if st := wait(t, e, start(t, e, BatchSpec{Users: r.users(), Attempts: 2})); st.Counts[Failed] != 2 || o.refused() != 4 {
		t.Errorf("never reached: %+v, asked %d times", st, o.refused())
	}
	o.set(false)
	r.opt.Dir = t.TempDir()
	r.opt.Timing.Away = 20 * time.Millisecond
	var once sync.Once
	r.target.fail = func(op string) error {
		if op == "put" {
			once.Do(func() { o.set(true) })
		}
		return nil
	}
	e = r.engine(t)
	st := wait(t, e, start(t, e, BatchSpec{Users: r.users(), Attempts: 2}))
	if st.Counts[Failed] != 2 || !strings.Contains(st.Users[0].Reason, "refused") {
		t.Errorf("away for good: %+v", st)
	}
}

// Only what could not be connected to is away: what was cut off, or refused, is not.
func TestWhatIsAway(t *testing.T) {
	refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	d := &driver{e: &Engine{timing: Timing{}.withDefaults()}, b: newBatch(BatchSpec{ID: "b", Users: []string{"anna"}}, nil, nil), user: "anna", log: slog.New(slog.DiscardHandler)}
	for _, tt := range []struct {
		err  error
		back bool
		want bool
	}{
		{backend.Errorf(backend.KindUnavailable, "", "imap of store old: %w", refused), false, true},
		{backend.Errorf(backend.KindUnavailable, "", "imap of store old: %w", refused), true, false},
		{backend.Errorf(backend.KindUnavailable, "", "read: %w", &net.OpError{Op: "read", Err: syscall.ECONNRESET}), false, false},
		{errors.New("no"), false, false},
	} {
		d.move.Back = tt.back
		if got := d.away(tt.err, true); got != tt.want {
			t.Errorf("%v, back %v: %v", tt.err, tt.back, got)
		}
	}
}
