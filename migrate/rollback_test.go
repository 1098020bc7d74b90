package migrate

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// backWorld is what a roll-back acts on: a world whose placement names the new
// store, and whose import is open, until the user is flipped back.
type backWorld struct{ world }

// swap is the table's compare-and-set. AtNew is the end of the way: the old
// store.
func (w *backWorld) swap(at PlacementAt, epoch uint64) bool {
	if w.epoch != epoch-1 {
		return false
	}
	w.epoch, w.placement = epoch, at
	if at == AtNew {
		w.flips++
		if !w.quiet || !w.equal {
			w.fatal("flipped back without quiet (%v) or equality (%v)", w.quiet, w.equal)
		}
	}
	if at == AtHold {
		w.quiet, w.equal = false, false
	}
	return true
}

func (w *backWorld) trySwap(at PlacementAt, epoch uint64) Event {
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

func (w *backWorld) do(m Move, a Action) Event {
	bad := Event{Kind: EvFailed, Reason: a.String()}
	fail := w.failed()
	switch a {
	case DoReverse:
		if w.placement != AtOld {
			w.fatal("the old store follows in a hold, or behind the flip back")
		}
		switch w.rng.IntN(80) {
		case 0:
			return Event{Kind: EvGaveUp, Reason: "too slow"}
		case 1:
			return Event{Kind: EvAwait, Reason: "nobody has the password"}
		}
		return pick(fail, bad, Event{Kind: EvGrant, Base: w.epoch})
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
	case DoSwapNew:
		return w.trySwap(AtNew, m.Base+2)
	case DoLookup:
		return pick(fail, bad, Event{Kind: EvPlacement, At: w.at(m)})
	case DoSwapOld:
		return w.trySwap(AtOld, m.Base+2)
	case DoFence:
		return w.trySwap(AtOld, m.Base+1)
	case DoReopen:
		if w.placement != AtNew {
			w.fatal("the new store was closed under its user")
		}
		if !fail || w.rng.IntN(2) == 0 {
			w.active = false
		}
		return pick(fail, bad, Event{Kind: EvReopened})
	case DoSetStore:
		if w.placement != AtNew {
			w.fatal("the directory was written before the flip back")
		}
		if w.active {
			w.fatal("the directory was written while the new store was open")
		}
		w.stored = w.stored || !fail
		return pick(fail, bad, Event{Kind: EvStored})
	case DoReport:
		return Event{Kind: EvReported}
	case DoBackOff:
		return Event{Kind: EvRetry}
	}
	w.fatal("a roll-back does %v", a)
	panic(a)
}

// check wants what must hold at every moment.
func (w *backWorld) check() {
	if w.flips > 1 {
		w.fatal("flipped back %d times", w.flips)
	}
	if w.placement != AtNew && !w.active {
		w.fatal("the user's store is closed")
	}
}

// TestRollbackInterleavings runs roll-backs in which every action may fail, hang
// on and land late, and the process may die before, during and after each.
func TestRollbackInterleavings(t *testing.T) {
	back, given, crashes := 0, 0, 0
	died := map[Step]int{}
	for seed := range uint64(3000) {
		w := &backWorld{world{t: t, rng: rand.New(rand.NewPCG(seed, 13)), epoch: 2 + seed%3, placement: AtOld, active: true}}
		w.say("seed %d", seed)
		m, todo := Move{State: Soaking, Opened: w.epoch, SoakUntil: 1, soak: true}.Next(Event{Kind: EvRollback})
		for steps := 0; !m.rests(); steps++ {
			if steps > 5000 {
				w.fatal("does not end: %+v", m)
			}
			if w.late != nil && w.rng.IntN(3) == 0 {
				w.say("late swap lands")
				w.late()
				w.late = nil
			}
			if w.rng.IntN(12) == 0 {
				crashes++
				died[m.step]++
				if len(todo) > 0 && w.rng.IntN(2) == 0 { // died in the middle of it
					w.do(m, todo[0])
				}
				m, todo = m.persisted().Begin()
				m.soak = true
				w.say("crash; again from %+v", m)
			}
			if len(todo) == 0 {
				w.fatal("nothing to do in %+v", m)
			}
			ev := w.do(m, todo[0])
			todo = todo[1:]
			if m.State == Holding && w.rng.IntN(12) == 0 {
				m, _ = m.Next(Event{Kind: EvExpired})
			}
			next, acts := m.Next(ev)
			w.say("%v/%d: %d %q at %d -> %v/%d %v", m.State, m.step, ev.Kind, ev.Reason, ev.At, next.State, next.step, acts)
			m, todo = next, append(todo, acts...)
			w.check()
		}
		if w.late != nil {
			w.late()
		}
		w.check()
		switch {
		case m.State == RolledBack && w.placement == AtNew && w.stored && !w.active && w.flips == 1:
			back++
		case m.State == Soaking && w.placement == AtOld && w.active && w.flips == 0 && strings.HasPrefix(m.Reason, notRolledBack):
			given++
		default:
			w.fatal("ended as %+v with placement %d, active %v, stored %v", m, w.placement, w.active, w.stored)
		}
	}
	t.Logf("%d rolled back, %d given up, %d crashes: by step %v", back, given, crashes, died)
	if back == 0 || given == 0 {
		t.Error("the test does not reach every end")
	}
	for _, s := range []Step{StepNone, StepSwapHold, StepQuiet, StepDelta, StepCompare, StepSwapNew, StepLookup, StepSwapOld, StepFence} {
		if died[s] == 0 {
			t.Errorf("no process died in step %d", s)
		}
	}
}
