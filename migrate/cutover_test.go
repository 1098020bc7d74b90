package migrate

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// world is what a move acts on: the placement record, the target's import, the
// directory. Each action may fail, may fail after it took effect, and a Swap
// may land late, behind an answer that said nothing.
type world struct {
	t         *testing.T
	rng       *rand.Rand
	placement PlacementAt
	epoch     uint64
	active    bool // the target is open under activeAt
	activeAt  uint64
	quiet     bool // confirmed for this hold
	equal     bool
	late      func() // a Swap that is still on its way
	stored    bool
	flips     int
	log       []string
}

func (w *world) say(format string, args ...any) { w.log = append(w.log, fmt.Sprintf(format, args...)) }

func (w *world) fatal(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("%s\n%s", fmt.Sprintf(format, args...), strings.Join(w.log, "\n"))
}

// swap is the table's compare-and-set.
func (w *world) swap(at PlacementAt, epoch uint64) bool {
	if w.epoch != epoch-1 {
		return false
	}
	w.epoch, w.placement = epoch, at
	if at == AtNew {
		w.flips++
		if !w.quiet || !w.equal {
			w.fatal("flipped without quiet (%v) or equality (%v)", w.quiet, w.equal)
		}
		if !w.active || w.activeAt != epoch {
			w.fatal("flipped to a target that is not open")
		}
	}
	if at == AtHold {
		w.quiet, w.equal = false, false
	}
	return true
}

// trySwap fails, succeeds, or leaves the outcome open.
func (w *world) trySwap(at PlacementAt, epoch uint64) Event {
	switch w.rng.IntN(6) {
	case 0:
		return Event{Kind: EvSwapLost, Reason: "no quorum"}
	case 1: // it will land, or not
		w.late = func() { w.swap(at, epoch) }
		return Event{Kind: EvSwapLost, Reason: "no answer"}
	case 2:
		w.swap(at, epoch)
		return Event{Kind: EvSwapLost, Reason: "answer lost"}
	}
	if !w.swap(at, epoch) {
		return Event{Kind: EvSwapLost, Reason: "conflict"}
	}
	return Event{Kind: EvSwapped}
}

func (w *world) failed() bool { return w.rng.IntN(5) == 0 }

// do performs an action and gives its outcome.
func (w *world) do(m Move, a Action) Event {
	bad := Event{Kind: EvFailed, Reason: a.String()}
	fail := w.failed()
	switch a {
	case DoCheck:
		return Event{Kind: EvChecked}
	case DoSync:
		if w.active && w.placement != AtNew && !m.Activated {
			w.fatal("copying into an open target that nobody remembers")
		}
		return pick(fail, bad, Event{Kind: EvSynced, Fast: w.rng.IntN(2) == 0})
	case DoSwapHold:
		return w.trySwap(AtHold, m.Base+1)
	case DoAwaitQuiet:
		w.quiet = !fail
		return pick(fail, Event{Kind: EvRefused, Reason: "long command"}, Event{Kind: EvQuiet})
	case DoLastDelta:
		return pick(fail, bad, Event{Kind: EvSealed})
	case DoCompare:
		w.equal = !fail
		return pick(fail, bad, Event{Kind: EvEqual})
	case DoActivate:
		if !fail || w.rng.IntN(2) == 0 { // may fail after it took effect
			w.active, w.activeAt = true, m.Base+2
		}
		return pick(fail, bad, Event{Kind: EvActivated})
	case DoSwapNew:
		return w.trySwap(AtNew, m.Base+2)
	case DoLookup:
		return pick(fail, bad, Event{Kind: EvPlacement, At: w.at(m)})
	case DoSwapOld:
		return w.trySwap(AtOld, m.Base+2)
	case DoFence:
		return w.trySwap(AtOld, m.Base+1)
	case DoReopen:
		if w.placement == AtNew {
			w.fatal("closed the target although the user was flipped")
		}
		if !fail || w.rng.IntN(2) == 0 {
			w.active = false
		}
		return pick(fail, bad, Event{Kind: EvReopened})
	case DoSetStore:
		if w.placement != AtNew {
			w.fatal("the directory was written before the flip")
		}
		w.stored = w.stored || !fail
		return pick(fail, bad, Event{Kind: EvStored})
	case DoReport:
		return Event{Kind: EvReported}
	case DoBackOff:
		return Event{Kind: EvRetry}
	}
	panic(a)
}

func pick(fail bool, bad, good Event) Event {
	if fail {
		return bad
	}
	return good
}

// at is what a lookup reads, seen from m.
func (w *world) at(m Move) PlacementAt {
	switch {
	case w.epoch == m.Base:
		return AtBase
	case w.epoch == m.Base+1 && w.placement == AtHold, w.epoch <= m.Base+2 && w.placement != AtHold:
		return w.placement
	}
	return AtElse
}

// check wants what must hold at every moment.
func (w *world) check(saved Move) {
	if w.flips > 1 {
		w.fatal("flipped %d times", w.flips)
	}
	if w.placement == AtNew && !w.active {
		w.fatal("the placement names a target that is not open")
	}
	if w.active && w.placement == AtOld && !saved.Activated {
		w.fatal("the target is open, the user on the old store, and the journal does not know")
	}
}

// TestCutoverInterleavings runs moves in which every action may fail, hang on
// and land late, and the process may die before, during and after each.
func TestCutoverInterleavings(t *testing.T) {
	finals, fails, crashes := 0, 0, 0
	for seed := range uint64(3000) {
		w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 7)), epoch: uint64(seed % 3), placement: AtOld}
		w.say("seed %d", seed)
		m, todo := NewMove(Final).Begin()
		saved := m // what the journal has
		for steps := 0; !m.Done(); steps++ {
			if steps > 5000 {
				w.fatal("does not end: %+v", m)
			}
			if w.late != nil && w.rng.IntN(3) == 0 {
				w.say("late swap lands")
				w.late()
				w.late = nil
			}
			if w.rng.IntN(25) == 0 {
				crashes++
				if len(todo) > 0 && w.rng.IntN(2) == 0 { // died in the middle of it
					w.do(m, todo[0])
				}
				m, todo = saved, nil // unexported fields are not on disk
				m.step, m.expired, m.stored, m.reported = StepNone, false, false, false
				m, todo = m.Begin()
				w.say("crash; again from %v", m)
			}
			var ev Event
			switch {
			case m.State == Ready:
				if w.placement != AtOld {
					w.fatal("a hold was left behind")
				}
				ev = Event{Kind: EvGrant, Base: w.epoch}
			case len(todo) == 0:
				w.fatal("nothing to do in %+v", m)
			default:
				ev = w.do(m, todo[0])
				todo = todo[1:]
			}
			if m.State == Holding && w.rng.IntN(12) == 0 {
				m, _ = m.Next(Event{Kind: EvExpired})
			}
			next, acts := m.Next(ev)
			w.say("%v/%d: %d %q at %d -> %v/%d %v", m.State, m.step, ev.Kind, ev.Reason, ev.At, next.State, next.step, acts)
			m, todo = next, append(todo, acts...)
			saved = m
			w.check(saved)
		}
		if w.late != nil {
			w.late()
		}
		w.check(saved)
		switch {
		case m.State == Final && w.placement == AtNew && w.stored:
			finals++
		case m.State == Failed && w.placement == AtOld && !w.active && w.flips == 0:
			fails++
		default:
			w.fatal("ended as %v with placement %d, active %v, stored %v", m.State, w.placement, w.active, w.stored)
		}
	}
	t.Logf("%d final, %d failed, %d crashes", finals, fails, crashes)
	if finals == 0 || fails == 0 || crashes == 0 {
		t.Error("the test does not reach every end")
	}
}

// TestCutoverAbort: whatever goes wrong before the flip, the old store gets the
// user back, and the target is closed.
func TestCutoverAbort(t *testing.T) {
	good := []EventKind{EvSwapped, EvQuiet, EvSealed, EvEqual, EvActivated}
	for n := 1; n < len(good); n++ {
		m := Move{State: Ready}
		m, _ = m.Next(Event{Kind: EvGrant, Base: 4})
		for _, kind := range good[:n] {
			m, _ = m.Next(Event{Kind: kind})
		}
		m, acts := m.Next(Event{Kind: EvFailed, Reason: "x"})
		if len(acts) != 1 || acts[0] != DoSwapOld {
			t.Errorf("failure after %d steps: %v", n, acts)
		}
		m, acts = m.Next(Event{Kind: EvSwapped})
		if activated := n == 4; activated != (acts[0] == DoReopen) {
			t.Errorf("after the abort of step %d: %v", n, acts)
		}
		if m.State == Holding {
			m, _ = m.Next(Event{Kind: EvReopened})
		}
		if m.State != Following || m.Tries != 1 || m.Reason != "x" || m.Activated {
			t.Errorf("aborted move: %+v", m)
		}
	}
}

func TestCutoverPauseAndRetry(t *testing.T) {
	m := Move{State: Following}
	m, _ = m.Next(Event{Kind: EvPause})
	if m.State != Paused || m.Prior != Following {
		t.Fatalf("paused: %+v", m)
	}
	m, acts := m.Next(Event{Kind: EvContinue})
	if m.State != Copying || acts[0] != DoSync {
		t.Errorf("continued: %+v %v", m, acts)
	}
	hold, _ := Move{State: Ready}.Next(Event{Kind: EvGrant})
	if p, _ := hold.Next(Event{Kind: EvPause}); p.State != Holding {
		t.Errorf("a hold was paused: %+v", p)
	}
	m, acts = Move{State: Failed, Tries: 5}.Next(Event{Kind: EvRetry})
	if m.State != Listed || m.Tries != 0 || acts[0] != DoCheck {
		t.Errorf("retried: %+v %v", m, acts)
	}
}
