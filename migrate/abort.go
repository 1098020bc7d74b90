package migrate

import "fmt"

// The part of the state machine that ends a hold which did not run through, and
// the flip itself; cutover.go has the rest.

func (m Move) lookup(reason string) (Move, []Action) {
	m.step, m.Reason = StepLookup, reason
	return m, []Action{DoLookup}
}

// found decides by the placement alone. Until the new store stands in it,
// nothing was flipped.
func (m Move) found(ev Event) (Move, []Action) {
	switch {
	case ev.Kind == EvFailed:
		return m, []Action{DoBackOff} // the record cannot be read: nothing may be decided
	case ev.Kind == EvRetry:
		return m, []Action{DoLookup}
	case ev.Kind != EvPlacement:
		return m, nil
	}
	switch ev.At {
	case AtNew:
		return m.commit()
	case AtHold:
		return m.abort(orReason(m.Reason, "the hold was interrupted"))
	case AtBase:
		m.step = StepFence
		return m, []Action{DoFence}
	default: // aborted already, or somebody else's by now
		return m.released()
	}
}

func orReason(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// abort gives the user back to the old store. The placement comes first: once
// it is written no late Swap of ours can flip the user any more, so that the
// target may be closed again; the other way round a flip could land on a closed
// target.
func (m Move) abort(reason string) (Move, []Action) {
	m.Reason, m.step = reason, StepSwapOld
	return m, []Action{DoSwapOld}
}

// aborting ends an abort, however long it takes.
func (m Move) aborting(ev Event) (Move, []Action) {
	swapping := m.step == StepSwapOld || m.step == StepFence
	switch {
	case swapping && ev.Kind == EvSwapped:
		return m.released()
	case swapping && ev.Kind == EvSwapLost:
		m.step = StepLookup
		return m, []Action{DoBackOff}
	case m.step == StepReopen && ev.Kind == EvReopened:
		m.Activated = false
		return m.backToReady()
	case m.step == StepReopen && ev.Kind == EvFailed:
		return m, []Action{DoBackOff}
	case m.step == StepReopen && ev.Kind == EvRetry:
		return m, []Action{DoReopen}
	}
	return m, nil
}

// released: the user is back on the old store; the target is closed again if it
// may have been opened.
func (m Move) released() (Move, []Action) {
	if !m.Activated {
		return m.backToReady()
	}
	m.step = StepReopen
	return m, []Action{DoReopen}
}

// backToReady ends an aborted hold: it is tried again, but not for ever.
func (m Move) backToReady() (Move, []Action) {
	m.step = StepNone
	if !m.cut {
		m.Tries++
	}
	m.cut = false
	if m.Back {
		return m.backToSoaking()
	}
	if m.Tries >= MaxHolds {
		return m.fail(fmt.Sprintf("%d holds were aborted, the last because: %s", m.Tries, orReason(m.Reason, "unknown")))
	}
	m.State = Following
	return m, []Action{DoSync}
}

// commit is the flip: the new store stands in the placement.
func (m Move) commit() (Move, []Action) {
	if m.Back {
		return m.commitBack()
	}
	m.Opened = m.Base + 2
	m.State, m.step, m.Activated, m.Reason = Flipped, StepNone, false, ""
	m.stored, m.reported = false, false
	return m, []Action{DoSetStore, DoReport}
}
