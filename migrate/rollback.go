package migrate

import "fmt"

// The part of the state machine that comes behind the flip: the soak, and the
// way back. A roll-back is a hold like any other, with the stores exchanged:
// holding and aborting are in cutover.go and abort.go.

// beginBack is what to do with a soak, or a roll-back, that is read from the journal.
func (m Move) beginBack() (Move, []Action) {
	switch {
	case !m.Back:
		return m, nil
	case m.State == Soaking:
		return m, []Action{DoReverse}
	case m.Activated:
		return m, []Action{DoReopen}
	}
	return m, []Action{DoSetStore, DoReport}
}

// soaking waits for orders, and for the hold of a roll-back.
func (m Move) soaking(ev Event) (Move, []Action) {
	switch {
	case ev.Kind == EvRollback && !m.Back:
		m.Back, m.Tries, m.Reason = true, 0, ""
		return m, []Action{DoReverse}
	case ev.Kind == EvSettled && !m.Back:
		m.State, m.Reason = Final, ""
	case !m.Back:
	case ev.Kind == EvGrant:
		m.State, m.Base, m.step = Holding, ev.Base, StepSwapHold
		m.expired, m.Reason = false, ""
		return m, []Action{DoSwapHold}
	case ev.Kind == EvFailed:
		m.Reason = ev.Reason
		return m, []Action{DoBackOff}
	case ev.Kind == EvRetry:
		return m, []Action{DoReverse}
	case ev.Kind == EvGaveUp, ev.Kind == EvAwait: // the user need not log in to the old store ever again
		m.Back, m.Reason = false, notRolledBack+ev.Reason
	}
	return m, nil
}

// notRolledBack begins the reason of a soak whose roll-back was given up.
const notRolledBack = "not rolled back: "

// backToSoaking ends an aborted hold of a roll-back: the user is on the new store.
func (m Move) backToSoaking() (Move, []Action) {
	m.State = Soaking
	if m.Tries >= MaxHolds {
		m.Back = false
		m.Reason = fmt.Sprintf("%s%d holds were aborted, the last because: %s", notRolledBack, m.Tries, orReason(m.Reason, "unknown"))
		return m, nil
	}
	return m, []Action{DoBackOff}
}

// commitBack is the flip back: the old store stands in the placement. The new
// one is open still, and is closed as after an abort.
func (m Move) commitBack() (Move, []Action) {
	m.State, m.step, m.Activated, m.Reason = RolledBack, StepNone, true, ""
	m.stored, m.reported = false, false
	return m, []Action{DoReopen}
}

// rolledBack pays what is owed behind the commit point, however long it takes.
func (m Move) rolledBack(ev Event) (Move, []Action) {
	if !m.Back {
		return m, nil
	}
	switch ev.Kind {
	case EvReopened:
		m.Activated = false
		return m, []Action{DoSetStore, DoReport}
	case EvStored:
		m.stored, m.Reason = true, ""
	case EvReported:
		m.reported = true
	case EvFailed:
		m.Reason = ev.Reason
		return m, []Action{DoBackOff}
	case EvRetry:
		switch {
		case m.Activated:
			return m, []Action{DoReopen}
		case !m.stored:
			return m, []Action{DoSetStore}
		}
	}
	if m.stored && m.reported {
		m.Back = false
	}
	return m, nil
}
