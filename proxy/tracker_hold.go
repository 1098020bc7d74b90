package proxy

import (
	"bytes"
	"strconv"
)

// A hold, as the tracker sees it. hold sets the goal to rest, release sets it
// back to run, and advance takes the next step towards the goal whenever
// something has changed:
//
//	to rest: commands in flight are answered -> IDLE is ended behind the
//	client's back -> the view is asked for -> frozen
//	to run: what we asked for is answered -> IDLE is begun again -> the
//	client's input goes on

// maxFetches bounds the questions for one view: new mail may come in between.
const maxFetches = 5

// hold stops new commands and leads the session to rest.
func (t *tracker) hold(out *output) {
	t.holding, t.gated = true, true
	t.frozen, t.learned, t.fetches = false, false, 0
	t.view, t.viewErr, t.outdated = view{}, "", t.fetching
	t.saved, t.savedKnown = nil, false
	t.advance(out)
}

// release lets the session go on: on the connection it has, or on the one that
// replaced was told of.
func (t *tracker) release(out *output) {
	t.holding, t.frozen = false, false
	t.view = view{}
	t.advance(out)
}

// replaced says that a fresh backend connection, logged in and resumed, has
// taken the place of the old one. The session must be frozen.
func (t *tracker) replaced() {
	t.down = serverSide{}
	t.fetching, t.outdated, t.said = false, false, false
	t.flight = t.flight[:0]
	// What follows is counted from what the client knew.
	t.sel.exists = t.view.n
}

func (t *tracker) advance(out *output) {
	if !t.gated || t.down.state != downStart {
		return
	}
	if t.holding {
		t.settle(out)
		return
	}
	switch {
	case t.fetching, t.idle == idleEnding, t.idle == idleAgain:
		return
	case t.idle == idleParked:
		t.idle = idleAgain
		out.toBackend([]byte(t.idleTag + " IDLE\r\n"))
		return
	}
	t.gated = false
	out.wake = true
}

func (t *tracker) settle(out *output) {
	if t.frozen || !t.quiet() || t.fetching {
		return
	}
	switch {
	case t.idle == idleOn:
		t.idle = idleEnding
		out.toBackend([]byte("DONE\r\n"))
	case t.idle == idleEnding || t.idle == idleAgain:
	case t.asks():
		t.fetching = true
		t.fetches++
		t.serial++
		// Not UID FETCH: no EXPUNGE may come during FETCH (RFC 9051, 7.5.1).
		what := strconv.FormatUint(uint64(t.view.n)+1, 10) + ":*"
		if t.savedFetch = t.sel.saved && !t.savedKnown; t.savedFetch {
			what = "$" // RFC 5182, 2.1
		}
		out.toBackend([]byte(t.ownTag() + " FETCH " + what + " (UID)\r\n"))
	default:
		t.frozen, out.frozen = true, true
	}
}

// asks reports whether the old store has to be asked for the view.
func (t *tracker) asks() bool {
	if t.learned || !t.sel.on || t.attachable() != "" {
		return false
	}
	if t.sel.saved && !t.savedKnown && t.sel.exists > 0 {
		return true
	}
	t.learned = t.view.n == t.sel.exists
	return !t.learned
}

// fetched judges what our FETCH brought.
func (t *tracker) fetched(ok bool) {
	switch {
	case t.outdated:
		t.outdated = false
	case t.savedFetch:
		if t.savedKnown = true; !ok || len(t.saved) > maxViewRanges {
			t.viewErr = reasonSaved
		}
	case len(t.view.set) > maxViewRanges:
		t.viewErr = reasonViewSize
	case t.view.bad || !ok || t.view.n > t.sel.exists:
		t.viewErr = reasonView
	case t.view.n < t.sel.exists && t.fetches >= maxFetches:
		t.viewErr = reasonView
	}
}

// ownTag is the tag of our present FETCH.
func (t *tracker) ownTag() string { return t.tag + strconv.Itoa(t.serial) }

// verdict is attachable for a session at rest: what came since may have made
// the view wrong.
func (t *tracker) verdict() reason {
	if r := t.attachable(); r != "" {
		return r
	}
	if t.sel.on && (t.view.bad || t.view.n != t.sel.exists) {
		return reasonView
	}
	return ""
}

// maxInlineSet is the length above which a UID set is sent as a literal.
const maxInlineSet = 4 << 10

// resumeCommand is RESUME for our own store, which takes the session over as
// the client knows it.
func (t *tracker) resumeCommand() []byte {
	var b bytes.Buffer
	b.WriteString(t.tag + "r RESUME ")
	var items []string
	if t.sel.on {
		b.Write(t.sel.mailbox)
		items = append(items, "UIDVALIDITY "+strconv.FormatUint(uint64(t.sel.uidValidity), 10),
			"MODSEQ "+strconv.FormatUint(t.sel.modSeq, 10))
		if t.view.n > 0 {
			items = append(items, "VIEW "+setArgument(t.view.set.String()))
		}
		if len(t.saved) > 0 {
			items = append(items, "SAVED "+setArgument(t.saved.String()))
		}
		if t.sel.readOnly {
			items = append(items, "READONLY")
		}
	} else {
		b.WriteString("NIL")
	}
	if len(t.enabled) > 0 || !t.sel.on {
		list := ""
		for i, f := range t.enabled {
			if i > 0 {
				list += " "
			}
			list += f
		}
		items = append(items, "ENABLED ("+list+")")
	}
	b.WriteString(" (")
	for i, it := range items {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(it)
	}
	b.WriteString(")\r\n")
	return b.Bytes()
}

func setArgument(set string) string {
	if len(set) <= maxInlineSet {
		return set
	}
	return "{" + strconv.Itoa(len(set)) + "+}\r\n" + set
}
