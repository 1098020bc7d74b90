package migrate

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mailferry/backend"
)

// script plays seconds to a throttle: each gives the users' p95 in milliseconds by
// how many users are being copied.
func play(th *throttle, seconds int, p95 func(second, level int) float64) (levels []int) {
	now := time.Unix(0, 0)
	for s := range seconds {
		users, from := th.allowed()
		if now.Before(from) {
			users = 0
		}
		th.users(now, p95(s, users)/1000, users)
		levels = append(levels, users)
		now = now.Add(time.Second)
	}
	return levels
}

func TestThrottleFollowsTheUsers(t *testing.T) {
	mean := func(l []int) float64 {
		sum := 0
		for _, n := range l {
			sum += n
		}
		return float64(sum) / float64(len(l))
	}
	tests := []struct {
		name     string
		p95      func(s, level int) float64
		min, max float64 // of the mean level in the second half
	}{
		{"users notice nothing", func(int, int) float64 { return 40 }, 16, 16},
		{"nobody is there to notice", func(int, int) float64 { return math.NaN() }, 16, 16},
		{"noise of a fast store", func(s, _ int) float64 { return 0.3 + float64(s%3) }, 15, 16},
		{"each copy costs 1 %", func(_, level int) float64 { return 100 + float64(level) }, 6, 11},
		{"more than four are too many", func(_, level int) float64 { return 50 + 20*float64(max(0, level-4)) }, 2.5, 5},
		{"one is too many", func(_, level int) float64 { return 50 + 50*float64(min(1, level)) }, 1, 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			th := newThrottle(16, time.Second, func() float64 { return 0 })
			for range 20 {
				th.users(time.Unix(-100, 0), tt.p95(0, 0)/1000, 0)
			}
			levels := play(th, 240, tt.p95)
			if m := mean(levels[120:]); m < tt.min || m > tt.max {
				t.Errorf("mean level %.1f, want %v to %v (base %.3f): %v", m, tt.min, tt.max, th.base, levels)
			}
		})
	}
}

func TestThrottleResignsToASlowStore(t *testing.T) {
	th := newThrottle(8, time.Second, func() float64 { return 0 })
	th.users(time.Unix(-10, 0), 0.05, 0)
	levels := play(th, 1200, func(int, int) float64 { return 200 }) // a busy day began
	if levels[60] != 1 || levels[1199] < 4 {
		t.Errorf("levels after a minute %d, after twenty %d", levels[60], levels[1199])
	}
}

func TestThrottleBacksOff(t *testing.T) {
	now := time.Unix(1000, 0)
	th := newThrottle(8, time.Second, func() float64 { return 1 })
	var waits []string
	for range 11 {
		th.refused(now, 1, 0)
		th.refused(now, 1, 0) // of the same moment
		_, from := th.allowed()
		waits = append(waits, from.Sub(now).String())
		now = from
	}
	if got := strings.Join(waits, " "); got != "1.5s 3s 6s 12s 24s 48s 1m36s 3m12s 6m24s 7m30s 7m30s" {
		t.Errorf("waits %s", got)
	}
	if users, _ := th.allowed(); users != 1 {
		t.Errorf("%d users are allowed", users)
	}
	th.refused(now, 1, 42*time.Second)
	if _, from := th.allowed(); from.Sub(now) != 63*time.Second {
		t.Errorf("asked for 42 s, waits %v", from.Sub(now))
	}
	now = now.Add(time.Hour)
	th.served(now)
	th.refused(now, 1, 0)
	if _, from := th.allowed(); from.Sub(now) != 1500*time.Millisecond {
		t.Errorf("after an hour of peace it waits %v", from.Sub(now))
	}
}

// A wall that others stand at: the level goes below it at once, and climbs over it
// only once a minute.
func TestThrottleRemembersTheWall(t *testing.T) {
	now := time.Unix(1000, 0)
	th := newThrottle(16, time.Second, func() float64 { return 0 })
	refusals := 0
	for range 600 {
		users, from := th.allowed()
		if !now.Before(from) && users > 5 {
			th.refused(now, users, 0)
			refusals++
		}
		th.users(now, math.NaN(), users)
		now = now.Add(time.Second)
	}
	if users, _ := th.allowed(); refusals > 12 || refusals < 5 || users < 3 {
		t.Errorf("%d refusals in ten minutes, level %d", refusals, users)
	}
}

func TestRefusals(t *testing.T) {
	auth := func(s string) error {
		return backend.Errorf(backend.KindAuthentication, "Authentication failed.", "login: %s", s)
	}
	tests := []struct {
		name   string
		err    error
		others bool
		room   bool
		asked  time.Duration
	}{
		{"nothing", nil, true, false, 0},
		{"wrong password", auth("NO [AUTHENTICATIONFAILED] no"), true, false, 0},
		{"a plain NO", auth("NO [] LOGIN failed."), true, false, 0},
		{"a limit", backend.Errorf(backend.KindTemporary, "", "NO [LIMIT] slow down"), false, true, 0},
		{"in use", backend.Errorf(backend.KindTemporary, "", "NO [INUSE] x"), false, true, 0},
		{"words alone", auth("NO [] Maximum number of connections from user+IP exceeded"), false, true, 0},
		{"Exchange after its login", backend.Errorf(backend.KindInvalid, "", "BAD User is authenticated but not connected."), false, false, 0},
		{"the same as a kind that it has", backend.Errorf(backend.KindTemporary, "", "NO User is authenticated but not connected."), false, true, 0},
		{"a time", backend.Errorf(backend.KindUnavailable, "", "BYE Session invalidated: Request is throttled. Suggested Backoff Time: 299933 milliseconds"), false, true, 299933 * time.Millisecond},
		{"a time in words of NO", auth("NO Suggested Backoff Time: 20 seconds"), false, true, 20 * time.Second},
		{"hung up, alone", backend.Errorf(backend.KindUnavailable, "", "greeting: %w", io.EOF), false, false, 0},
		{"hung up, while others work", backend.Errorf(backend.KindUnavailable, "", "greeting: %w", io.EOF), true, true, 0},
		{"ours", errors.New("too many"), true, false, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if room, asked := refusal(tt.err, tt.others); room != tt.room || asked != tt.asked {
				t.Errorf("room %v, asked %v", room, asked)
			}
		})
	}
}

// All batches together keep to the limits of a host, and logins to their pace.
func TestHostLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int32
		hs := newHosts(func(context.Context, string, string) (net.Conn, error) {
			most.Store(max(most.Load(), now.Add(1)))
			a, b := net.Pipe()
			b.Close()
			return a, nil
		})
		s := &backend.Store{Name: "old", MaxConnections: 4, MaxLogins: 10}
		began := time.Now()
		var wg sync.WaitGroup
		for range 40 {
			wg.Go(func() {
				v := &visitor{}
				h := hs.of(s, "")
				for range 2 { // the second one is needed while the first is open
					p, err := hs.place(t.Context(), h, v)
					if err != nil {
						t.Error(err)
						return
					}
					c, err := p.dial(t.Context(), "tcp", "x")
					if err != nil {
						t.Error(err)
						return
					}
					time.Sleep(100 * time.Millisecond)
					defer func() { now.Add(-1); c.Close(); c.Close() }()
				}
			})
		}
		wg.Wait()
		if most.Load() > 4 {
			t.Errorf("%d connections at once", most.Load())
		}
		if took := time.Since(began); took < 79*100*time.Millisecond {
			t.Errorf("80 logins took %v", took)
		}
		if h := hs.of(s, ""); h.open != 0 || len(h.working) != 0 {
			t.Errorf("left behind: %v, %d", h.open, len(h.working))
		}
	})
}

// A further connection is one that nobody waits for: the last one is left to
// those who need a second connection, and a host that was short of room of late
// gives none.
func TestFurtherConnectionsOfAHost(t *testing.T) {
	hs := newHosts(nil)
	s := &backend.Store{Name: "old", MaxConnections: 4}
	h, v := hs.of(s, "a"), &visitor{}
	if _, err := hs.place(t.Context(), h, v); err != nil {
		t.Fatal(err)
	}
	p := hs.further(h, v)
	if p == nil || hs.further(h, v) == nil {
		t.Fatal("there is no second or third connection")
	}
	if hs.further(h, v) != nil {
		t.Error("the last one is gone")
	}
	if hs.further(hs.of(s, "b"), &visitor{}) == nil {
		t.Error("another host has none yet")
	}
	p.leave()
	p.leave()
	if h.open != 2 || hs.further(h, v) == nil {
		t.Errorf("what was given back is not there: %d are open", h.open)
	}
	h.throttle.refused(time.Now(), 4, time.Minute)
	if h.open--; hs.further(h, v) != nil {
		t.Error("a host without room gave one more")
	}
}

func TestHostOctets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := newHosts(func(context.Context, string, string) (net.Conn, error) {
			a, b := net.Pipe()
			go func() { b.Write(make([]byte, 5<<20)); b.Close() }()
			return a, nil
		})
		s := &backend.Store{Name: "old", MaxOctets: 1 << 20}
		began := time.Now()
		var wg sync.WaitGroup
		for range 2 {
			p, err := hs.place(t.Context(), hs.of(s, ""), &visitor{})
			if err != nil {
				t.Fatal(err)
			}
			c, err := p.dial(t.Context(), "tcp", "x")
			if err != nil {
				t.Fatal(err)
			}
			wg.Go(func() {
				defer c.Close()
				if n, err := io.Copy(io.Discard, c); n != 5<<20 || err != nil {
					t.Error(n, err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(began); took < 9*time.Second || took > 10*time.Second {
			t.Errorf("10 MiB at 1 MiB/s, with 1 MiB at once, took %v", took)
		}
	})
}

// A hold waits for nobody's place but its own connections.
func TestUrgentGoesAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := newHosts(nil)
		h := hs.of(&backend.Store{Name: "old", MaxConnections: 4}, "")
		h.throttle.refused(time.Now(), 4, time.Minute)
		v := &visitor{}
		v.urgent.Store(true)
		if _, err := hs.place(t.Context(), h, v); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := hs.place(t.Context(), h, &visitor{}); err != nil || time.Since(began) < time.Minute {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

// A store that takes two connections at a time and says so: nobody fails, and
// after the first refusals few logins are refused.
func TestEngineBearsALimitedStore(t *testing.T) {
	r := newRig(t, 12, 6)
	r.src.most = 2
	r.opt.Timing.Tick = 5 * time.Millisecond
	var mu sync.Mutex
	lowest := 99
	r.opt.Metrics.Throttle = func(_ string, users, most int) {
		mu.Lock()
		defer mu.Unlock()
		lowest = min(lowest, users)
	}
	e := r.engine(t)
	st := wait(t, e, start(t, e, BatchSpec{Users: r.users(), Parallel: 6}))
	r.complete(t)
	if st.Counts[Final] != 12 {
		t.Errorf("%+v", st)
	}
	if n := r.src.refused.Load(); n == 0 || n > 20 || lowest > 3 {
		t.Errorf("%d logins were refused, lowest level %d", n, lowest)
	}
}

// A store that gets slow for its users while more than two are copied: the engine
// gives way.
func TestEngineGivesWayToUsers(t *testing.T) {
	r := newRig(t, 6, 4)
	r.opt.Timing.Tick = time.Millisecond
	low := make(chan struct{})
	var once sync.Once
	r.opt.Metrics.Throttle = func(_ string, users, _ int) {
		if users <= 2 {
			once.Do(func() { close(low) })
		}
	}
	e := r.engine(t)
	e.hosts.of(r.src.store, "") // known before the first move
	for range 200 {
		e.ObserveLatency("old", "", 20*time.Millisecond)
	}
	e.hosts.tick(time.Now())
	r.target.fail = func(op string) error { // each copy waits for the engine to give way
		if op == "put" {
			for {
				for range 50 {
					e.ObserveLatency("old", "", 60*time.Millisecond)
				}
				select {
				case <-low:
					return nil
				case <-time.After(time.Millisecond):
				}
			}
		}
		return nil
	}
	wait(t, e, start(t, e, BatchSpec{Users: r.users(), Parallel: 6}))
	r.complete(t)
}

func BenchmarkObserveLatency(b *testing.B) {
	hs := newHosts(nil)
	hs.of(&backend.Store{Name: "old"}, "")
	for b.Loop() {
		hs.observe("old", "", time.Millisecond)
	}
}

// A store that says THROTTLED, to a command or beside its answers, or that hangs up
// with it, is left alone for a while and asked by fewer; no move fails by it.
func TestTrapThrottledBacksOff(t *testing.T) {
	t.Run("survey", func(t *testing.T) { throttled(t, func(line string) bool { return strings.HasPrefix(line, "LIST") }) })
	// What is not given for want of room is no fault of the messages.
	t.Run("bodies", func(t *testing.T) {
		throttled(t, func(line string) bool { return strings.HasPrefix(line, "UID FETCH") && strings.Contains(line, "BODY") })
	})
}

func throttled(t *testing.T, command func(line string) bool) {
	for name, said := range map[string][]string{
		"tagged":      {"NO [THROTTLED] slow down"},
		"untagged NO": {"* NO [THROTTLED] slow down", ""},
		"untagged OK": {"* OK [THROTTLED] slow down", ""},
		"bye":         {"* BYE [THROTTLED] Request is throttled. Suggested Backoff Time: 20 milliseconds", "NO bye"},
		"plain bye":   {"* BYE Session invalidated: request is throttled", "NO bye"},
	} {
		t.Run(name, func(t *testing.T) {
			h := startHostile(t, &hostile{boxes: []*hostileBox{filled("INBOX", 3)}})
			h.store.Name, h.store.MaxConnections = "old", 4
			var left atomic.Int32
			left.Store(2)
			fs := newFakeStore()
			h.bend = func(_ int, line string, answer []string) []string {
				if !command(line) || left.Add(-1) < 0 {
					return answer
				}
				if said[len(said)-1] == "" {
					return append([]string{said[0]}, answer...)
				}
				return said
			}
			var mu sync.Mutex
			fewest, told := 4, 0
			e, err := New(Options{
				Dir: t.TempDir(), Importer: fs, Placements: newFakePlacements(), Timing: Timing{BackOff: 5 * time.Millisecond},
				Stores: map[string]*backend.Store{"old": h.store, "home": {Name: "home", Type: backend.StoreLocal}},
				Lookup: func(_ context.Context, user string) (backend.Entry, error) {
					return backend.Entry{User: user, Store: "old", CheckPassword: true}, nil
				},
				Metrics: Metrics{Throttle: func(_ string, users, _ int) {
					mu.Lock()
					defer mu.Unlock()
					told++
					fewest = min(fewest, users)
				}},
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { e.Close() })
			st := wait(t, e, start(t, e, BatchSpec{Users: []string{"anna"}, POP3: POP3Never, Attempts: 1}))
			if st.Counts[Final] != 1 {
				t.Errorf("%+v", st)
			}
			if n := len(fs.box(t, "anna", "INBOX").msgs); n != 3 {
				t.Errorf("%d messages of 3", n)
			}
			mu.Lock()
			defer mu.Unlock()
			if told == 0 || fewest >= 4 {
				t.Errorf("told %d times, %d users at least", told, fewest)
			}
		})
	}
}
