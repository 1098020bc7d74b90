package migrate

import "fmt"

// State is where a move stands (docs/cutover.md).
type State uint8

// The states of a move, in order; the last five are beside the way.
const (
	Listed State = iota
	Checked
	Copying
	Following
	Ready
	Holding
	Flipped
	Soaking // the old store follows the new one, so that a roll-back is exact
	Final
	Failed
	Paused
	RolledBack
	Waiting // for a login of the user, whose password alone opens the old store
)

var stateNames = [...]string{"listed", "checked", "copying", "following", "ready", "holding", "flipped", "soaking",
	"final", "failed", "paused", "rolled back", "waiting for login"}

// StateNames are the names of all states.
func StateNames() []string { return stateNames[:] }

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// MarshalText writes the state's name.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a state's name.
func (s *State) UnmarshalText(b []byte) error {
	for i, name := range stateNames {
		if name == string(b) {
			*s = State(i)
			return nil
		}
	}
	return fmt.Errorf("unknown state %q", b)
}

// Step is where a hold stands; it is not persisted: after a crash the placement
// record alone decides.
type Step uint8

// The steps of a hold, in order. StepAbort tries to give the user back to the
// old store; StepLookup reads the placement because a Swap's outcome is unknown.
const (
	StepNone Step = iota
	StepSwapHold
	StepQuiet
	StepDelta
	StepCompare
	StepActivate
	StepSwapNew
	StepLookup
	StepSwapOld
	StepFence
	StepReopen
)

// Move is the state machine of one user's move. It is a value: Next gives the
// next one and what to do, without I/O and without a clock. Exported fields are
// persisted before any action of the transition is begun.
type Move struct {
	State State `json:"state"`
	// Base is the placement epoch e before the hold: e+1 holds, e+2 ends it.
	Base uint64 `json:"base,omitempty"`
	// Activated: the target may be active under Base+2 although nothing was
	// flipped; it must be reopened before anything else is done to it.
	Activated bool   `json:"activated,omitempty"`
	Tries     int    `json:"tries,omitempty"` // holds that were aborted
	Prior     State  `json:"prior,omitempty"` // of a paused or waiting move
	Reason    string `json:"reason,omitempty"`
	// Opened is the epoch under which the new store was opened at the flip.
	Opened uint64 `json:"opened,omitempty"`
	// SoakUntil is when the soak ends, in seconds of Unix time; 0: it has not begun.
	SoakUntil int64 `json:"soak_until,omitempty"`
	// Back: the way is that of a roll-back, from the new store to the old one.
	// In state rolled back it means that something is owed.
	Back bool `json:"back,omitempty"`

	step     Step
	expired  bool // the hold's time is over
	stored   bool // the directory knows the new store
	reported bool // the proxies' reports are in
	cut      bool // this hold was cut off by a crash, which is nobody's refusal
	until    State
	soak     bool // a flip is followed by a soak
}

// NewMove begins a move that ends in until: Final, Ready for a copy without a
// flip, or Checked for a dry run.
func NewMove(until State) Move { return Move{until: until} }

// MaxHolds is how often a hold is tried. From the third on sessions that cannot
// be frozen are closed by the proxies.
const MaxHolds = 5

// EventKind is what happened.
type EventKind uint8

// The events. Each is the outcome of an action, but for EvGrant (a slot for the
// hold is free), EvExpired (5 s of the hold are over), EvRetry, EvPause and
// EvContinue (an operator, or the engine's back-off).
const (
	EvChecked EventKind = iota
	EvSynced            // a pass ended; Fast: quickly enough for a hold, Same: nothing had changed
	EvGrant
	EvSwapped  // the placement was written
	EvSwapLost // Swap failed: its outcome is unknown
	EvPlacement
	EvQuiet
	EvRefused
	EvSealed
	EvEqual
	EvActivated
	EvReopened
	EvExpired
	EvStored
	EvReported
	EvFailed // the action failed; Reason says why
	EvGaveUp // it failed for good, or too often
	EvRetry
	EvPause
	EvContinue
	EvRollback // an operator's order
	EvSettled  // nothing speaks against the end of a soak
	EvAwait    // it takes another login of the user
)

// Event is what happened.
type Event struct {
	Kind   EventKind
	Fast   bool
	Same   bool
	Base   uint64 // EvGrant: the placement's epoch
	Until  int64  // EvReported: when a soak that begins now ends
	At     PlacementAt
	Reason string
}

// PlacementAt is what a placement record says of a hold.
type PlacementAt uint8

// AtBase: as it was before the hold; AtOld: active on the old store, under a
// later epoch; AtHold: holding; AtNew: active on the new store; AtElse: the
// record has moved on without us.
const (
	AtBase PlacementAt = iota
	AtOld
	AtHold
	AtNew
	AtElse
)

// Action is what to do next; each has exactly one outcome event.
type Action uint8

// The actions. DoSwapNew is the commit point.
const (
	DoCheck Action = iota
	DoSync
	DoSwapHold
	DoAwaitQuiet
	DoLastDelta // with the seal
	DoCompare
	DoActivate
	DoSwapNew
	DoLookup
	DoReopen
	DoSwapOld // under Base+2
	DoFence   // active on the old store under Base+1: a Swap to holding that is still on its way fails
	DoSetStore
	DoReport
	DoBackOff // wait, then EvRetry
	DoReverse // bring the old store up to date, and wait for a hold
)

var actionNames = [...]string{"check", "sync", "swap to holding", "await quiet", "last delta", "compare", "activate",
	"swap to the new store", "look up the placement", "reopen", "swap to the old store", "fence the old store", "write the directory",
	"await reports", "back off", "follow the new store"}

func (a Action) String() string { return actionNames[a] }

// Step tells where the hold stands.
func (m Move) Step() Step { return m.step }

// Done reports whether nothing is left to do.
func (m Move) Done() bool {
	switch m.State {
	case Final, Failed, Soaking: // a soak is looked after beside its batch
		return true
	case RolledBack:
		return !m.Back
	case Ready, Checked:
		return m.State == m.until
	}
	return false
}

// rests reports that whoever carries the move out has nothing to do.
func (m Move) rests() bool { return m.Done() && !(m.State == Soaking && m.Back) }

// Begin is what to do with a move that is read from the journal, or is new. A
// hold needs the placement first: see Recover.
func (m Move) Begin() (Move, []Action) {
	switch m.State {
	case Listed:
		return m, []Action{DoCheck}
	case Checked, Copying, Following, Ready:
		if m.Activated { // an abort was cut off before it was finished
			m.State, m.step, m.cut = Holding, StepLookup, true
			return m, []Action{DoLookup}
		}
		if m.Done() {
			return m, nil
		}
		m.State = Copying // the first pass after a start is a full one
		return m, []Action{DoSync}
	case Holding:
		m.step, m.cut = StepLookup, true
		return m, []Action{DoLookup}
	case Flipped:
		return m, []Action{DoSetStore, DoReport}
	case Soaking, RolledBack:
		return m.beginBack()
	case Waiting:
		m.State, m.Reason = m.Prior, ""
		return m.Begin()
	}
	return m, nil
}

// Next takes an event. Events that do not fit are dropped: they are outcomes of
// actions that were overtaken.
func (m Move) Next(ev Event) (Move, []Action) {
	switch m.State {
	case Listed:
		return m.listed(ev)
	case Checked, Copying, Following:
		return m.syncing(ev)
	case Ready:
		return m.ready(ev)
	case Holding:
		return m.holding(ev)
	case Flipped:
		return m.flipped(ev)
	case Soaking:
		return m.soaking(ev)
	case RolledBack:
		return m.rolledBack(ev)
	case Paused:
		if ev.Kind == EvContinue {
			m.State, m.Reason = m.Prior, ""
			return m.Begin()
		}
	case Failed:
		if ev.Kind == EvRetry {
			m.State, m.Reason, m.Tries = Listed, "", 0
			return m.Begin()
		}
	}
	return m, nil
}

// pause stops a move between two actions; a hold is never paused.
func (m Move) pause() (Move, []Action) {
	m.Prior, m.State = m.State, Paused
	return m, nil
}

// await stops a move, between two actions and outside of holds, until the user logs in.
func (m Move) await(ev Event) (Move, []Action) {
	if m.Prior = m.State; m.State == Ready {
		m.Prior = Following
	}
	m.State, m.Reason = Waiting, ev.Reason
	return m, nil
}

func (m Move) listed(ev Event) (Move, []Action) {
	switch ev.Kind {
	case EvChecked:
		m.Reason = ""
		if m.State = Checked; m.Done() {
			return m, nil
		}
		m.State = Copying
		return m, []Action{DoSync}
	case EvFailed:
		m.Reason = ev.Reason
		return m, []Action{DoBackOff}
	case EvRetry:
		return m, []Action{DoCheck}
	case EvGaveUp:
		return m.fail(ev.Reason)
	case EvPause:
		return m.pause()
	case EvAwait:
		return m.await(ev)
	}
	return m, nil
}

func (m Move) fail(reason string) (Move, []Action) {
	m.State, m.Reason, m.step = Failed, reason, StepNone
	return m, nil
}

func (m Move) syncing(ev Event) (Move, []Action) {
	switch ev.Kind {
	case EvSynced:
		// A first pass that found nothing to do was as good as the one behind it.
		if !ev.Fast || m.State != Following && !ev.Same {
			m.State = Following
			return m, []Action{DoSync}
		}
		m.State, m.Reason = Ready, ""
		return m, nil
	case EvFailed:
		m.Reason = ev.Reason
		return m, []Action{DoBackOff}
	case EvRetry:
		return m, []Action{DoSync}
	case EvGaveUp:
		return m.fail(ev.Reason)
	case EvPause:
		return m.pause()
	case EvAwait:
		return m.await(ev)
	}
	return m, nil
}

func (m Move) ready(ev Event) (Move, []Action) {
	switch {
	case ev.Kind == EvPause:
		return m.pause()
	case ev.Kind == EvGaveUp:
		return m.fail(ev.Reason)
	case m.Done():
		return m, nil
	case ev.Kind == EvAwait:
		return m.await(ev)
	case ev.Kind == EvFailed:
		m.State, m.Reason = Following, ev.Reason
		return m, []Action{DoBackOff}
	case ev.Kind == EvSynced && !ev.Fast: // a pass while it waited for its slot
		m.State = Following
		return m, []Action{DoSync}
	case ev.Kind == EvGrant:
		m.State, m.Base, m.step = Holding, ev.Base, StepSwapHold
		m.expired, m.Reason = false, ""
		return m, []Action{DoSwapHold}
	}
	return m, nil
}

// holding is the hold up to the commit point, and its abort.
func (m Move) holding(ev Event) (Move, []Action) {
	if ev.Kind == EvExpired {
		// Acted on when the running action ends: an outcome is never guessed.
		m.expired = true
		return m, nil
	}
	switch m.step {
	case StepSwapHold:
		switch ev.Kind {
		case EvSwapped:
			return m.advance(StepQuiet, DoAwaitQuiet)
		case EvSwapLost:
			return m.lookup(ev.Reason)
		case EvFailed: // it was not tried
			m.Reason = ev.Reason
			return m.backToReady()
		}
	case StepQuiet:
		return m.expect(ev, EvQuiet, StepDelta, DoLastDelta)
	case StepDelta:
		return m.expect(ev, EvSealed, StepCompare, DoCompare)
	case StepCompare:
		if m.Back { // the old store is open to everybody as it is
			return m.expect(ev, EvEqual, StepSwapNew, DoSwapNew)
		}
		next, acts := m.expect(ev, EvEqual, StepActivate, DoActivate)
		if next.step == StepActivate {
			next.Activated = true // persisted before the attempt
		}
		return next, acts
	case StepActivate:
		return m.expect(ev, EvActivated, StepSwapNew, DoSwapNew)
	case StepSwapNew:
		switch ev.Kind {
		case EvSwapped:
			return m.commit()
		case EvSwapLost:
			return m.lookup(ev.Reason)
		}
	case StepLookup:
		return m.found(ev)
	case StepSwapOld, StepFence, StepReopen:
		return m.aborting(ev)
	}
	return m, nil
}

// advance goes on, unless the hold's time is over.
func (m Move) advance(step Step, do Action) (Move, []Action) {
	if m.expired {
		return m.abort("the hold took too long")
	}
	m.step = step
	return m, []Action{do}
}

// expect goes on with the wanted outcome and aborts with any other.
func (m Move) expect(ev Event, want EventKind, step Step, do Action) (Move, []Action) {
	switch ev.Kind {
	case want:
		return m.advance(step, do)
	case EvFailed, EvRefused:
		return m.abort(ev.Reason)
	}
	return m, nil
}

// flipped waits for the directory, for as long as it takes, and for the
// proxies' reports.
func (m Move) flipped(ev Event) (Move, []Action) {
	switch ev.Kind {
	case EvStored:
		m.stored, m.Reason = true, ""
	case EvReported:
		m.reported = true
		if m.soak {
			m.SoakUntil = ev.Until
		}
	case EvFailed:
		m.Reason = ev.Reason
		return m, []Action{DoBackOff}
	case EvRetry:
		if !m.stored {
			return m, []Action{DoSetStore}
		}
	}
	if m.stored && m.reported {
		if m.State = Final; m.soak {
			m.State = Soaking
		}
	}
	return m, nil
}
