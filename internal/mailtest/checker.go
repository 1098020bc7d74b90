package mailtest

import (
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

// CheckerOptions describes a client that uses a mailbox for as long as a test
// lasts and checks that everything it is told makes sense.
type CheckerOptions struct {
	Addr     string
	TLS      *tls.Config // implicit TLS; nil: clear text
	User     string
	Password string
	Name     string   // in reports; default User
	Mailbox  string   // default INBOX
	Others   []string // further mailboxes, in wire form, that ReadAndFlag visits
	Enable   string   // for example "QRESYNC"

	Keyword    string        // set and removed by ReadAndFlag, by nobody else; default "$Checked"
	ReadOnly   bool          // ReadAndFlag only reads
	AppendTo   string        // ReadAndFlag also appends there; a mailbox in wire form
	NoExpunges bool          // nobody expunges: a message that goes is a fault
	Interval   time.Duration // between ReadAndFlag's commands; default 20 ms
	Seed       uint64        // of ReadAndFlag's choices

	Limit     time.Duration // for the answer to a command; default 30 s
	AllowBye  bool          // a BYE between commands is counted and the client comes back
	Reconnect bool          // a lost connection, too
	ComeBack  time.Duration // how long coming back may take; default 60 s
}

// Checker is such a client. A fault does not stop it; a wrong dialogue does.
type Checker struct {
	o    CheckerOptions
	rand *rand.Rand // owned by the loop

	stopping chan struct{} // closed by Stop
	stopOnce sync.Once
	done     chan struct{} // closed when the loop has ended

	mu       sync.Mutex
	report   Report
	boxes    map[string]*box
	current  *box // selected; nil: none
	session  *session
	tags     int
	appended int
	searched []uint32 // the last SEARCH result
	validity uint32   // told by the SELECT under way
	next     uint32
	existing uint32
}

var (
	errStopped = errors.New("stopped")
	errLost    = errors.New("connection lost")
)

// NewChecker logs in, selects the mailbox and lists it. Idle or ReadAndFlag
// starts its loop; Stop ends it and returns the report.
func NewChecker(t testing.TB, o CheckerOptions) *Checker {
	t.Helper()
	o.Name, o.Mailbox, o.Keyword = orString(o.Name, o.User), orString(o.Mailbox, "INBOX"), orString(o.Keyword, "$Checked")
	o.Limit, o.ComeBack = orTime(o.Limit, 30*time.Second), orTime(o.ComeBack, time.Minute)
	o.Interval = orTime(o.Interval, 20*time.Millisecond)
	c := &Checker{o: o, rand: rand.New(rand.NewPCG(o.Seed, 1)), boxes: map[string]*box{},
		stopping: make(chan struct{}), report: Report{Name: o.Name}}
	t.Cleanup(func() { c.Stop() })
	if err := c.connect(); err != nil {
		t.Fatalf("%s: %v\n%s", o.Name, err, c.Transcript())
	}
	return c
}

// Idle starts a loop that waits in IDLE; when it hears of a message it leaves
// IDLE, asks for UID, flags and Message-ID, and goes back.
func (c *Checker) Idle() { c.start(c.idle) }

// ReadAndFlag starts a loop that reads, searches, sets and removes its keyword
// and checks the answers against what it knows.
func (c *Checker) ReadAndFlag() { c.start(c.readAndFlag) }

func (c *Checker) start(step func() error) {
	c.done = make(chan struct{})
	go func() {
		defer close(c.done)
		c.loop(step)
	}()
}

// Stop ends the loop after the command under way, logs out and returns the
// report. Further calls return the same.
func (c *Checker) Stop() *Report {
	c.stopOnce.Do(func() {
		close(c.stopping)
		if c.done != nil {
			<-c.done
		}
		c.logout()
		c.collect()
	})
	return &c.report
}

// Report is a copy of what was seen so far; arrivals come only with Stop.
func (c *Checker) Report() *Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.report
	r.Writes, r.Pauses = slices.Clone(r.Writes), slices.Clone(r.Pauses)
	return &r
}

// AwaitHeard returns when the client has heard of all these Message-IDs, and
// fails the test when that takes longer than the limit.
func (c *Checker) AwaitHeard(t testing.TB, limit time.Duration, ids ...string) {
	t.Helper()
	var lacking []string
	heard := waitFor(limit, func() bool {
		lacking = c.unheard(ids)
		return len(lacking) == 0
	})
	if !heard {
		t.Errorf("%s did not hear of %d of %d messages within %v: %s", c.o.Name, len(lacking), len(ids), limit, lacking[0])
	}
}

// unheard lists those ids that no mailbox of the client holds.
func (c *Checker) unheard(ids []string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := map[string]bool{}
	for _, b := range c.boxes {
		for _, m := range b.msgs {
			known[m.id] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return known[id] })
}

// Transcript is the end of the present connection's dialogue.
func (c *Checker) Transcript() string {
	c.mu.Lock()
	s := c.session
	c.mu.Unlock()
	if s == nil {
		return ""
	}
	return s.w.transcript()
}

// loop repeats step until Stop, and comes back when the options allow.
func (c *Checker) loop(step func() error) {
	for {
		err := step()
		switch {
		case errors.Is(err, errStopped):
			return
		case err == nil:
			continue
		case !errors.Is(err, errLost):
			c.fault("%v", err)
			return
		case !c.mayReturn():
			c.fault("the connection was closed: %v", err)
			return
		}
		if err := c.comeBack(); err != nil {
			if !errors.Is(err, errStopped) {
				c.fault("cannot come back: %v", err)
			}
			return
		}
	}
}

// mayReturn reports whether the end of the last connection was allowed.
func (c *Checker) mayReturn() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.o.Reconnect || c.o.AllowBye && c.session.byeOK
}

// comeBack connects again until it works or the time is over.
func (c *Checker) comeBack() error {
	limit := time.NewTimer(c.o.ComeBack)
	defer limit.Stop()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		err := c.connect()
		if err == nil {
			c.mu.Lock()
			c.report.Reconnects++
			c.mu.Unlock()
			return nil
		}
		if errors.Is(err, errWrong) {
			return err
		}
		select {
		case <-c.stopping:
			return errStopped
		case <-limit.C:
			return err
		case <-again.C:
		}
	}
}

func (c *Checker) stopped() bool {
	select {
	case <-c.stopping:
		return true
	default:
		return false
	}
}

// errWrong marks an answer that coming back cannot cure.
var errWrong = errors.New("wrong answer")

const maxFaults = 20

// fault notes something that made no sense.
func (c *Checker) fault(format string, args ...any) {
	text := fmt.Sprintf(format, args...) + "\n" + c.Transcript()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.addFault(text)
}

// addFault is fault for a caller that holds mu.
func (c *Checker) addFault(text string) {
	if len(c.report.Faults) >= maxFaults {
		c.report.Ignored++
		return
	}
	c.report.Faults = append(c.report.Faults, text)
}

// collect adds the arrivals to the report.
func (c *Checker) collect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, b := range c.boxes {
		for uid, m := range b.msgs {
			if !m.seen.IsZero() {
				c.report.Arrivals = append(c.report.Arrivals,
					Arrival{Mailbox: name, UID: uid, MessageID: m.id, Seen: m.seen, Idle: m.seenIdle})
			}
		}
	}
}

func orTime(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}
