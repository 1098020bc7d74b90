package proxy

import (
	"slices"

	"mailferry/internal/line"
)

// Bounds of a relayed session. maxLine is what Dovecot and our own store
// accept; longer responses are passed through without being held back.
const (
	maxLine   = 64 << 10
	longLine  = 16 << 10
	maxFlight = 128
	maxTag    = 256
	maxText   = 4 << 10 // of a command with its small literals, kept for SELECT
)

// tracker follows one session after login from the octets of both sides, and
// steers it through a hold. It is pure: no I/O, no clock, no goroutine. The
// session around it serialises the calls and carries out what output says.
//
// It reads only what it has to: each command's first line, and of responses
// the first words and the announcement of a literal. Literals are counted, not
// looked at.
type tracker struct {
	policy *policy
	tag    string // prefix of our own commands' tags

	up   clientSide
	down serverSide

	flight  []command // sent, not yet answered; IDLE is kept apart
	idle    idleState
	idleTag string

	sel     selection
	next    selection // filled while a SELECT is the oldest command in flight
	enabled []string  // upper case, ascending
	// sticky is why the session cannot be carried over, once it is so.
	sticky  reason
	inject  []byte // our own lines for the client, at the next boundary
	ending  bool   // no more commands: the session is about to get BYE
	logout  bool
	said    bool // the backend said BYE
	fetches int  // our own FETCHes so far in this hold
	serial  int  // of our own commands

	holding  bool // the goal; else the goal is to run
	gated    bool // no new command is taken
	fetching bool // our own FETCH is in flight
	outdated bool // it is that of an earlier hold
	frozen   bool
	learned  bool // the view is known
	view     view
	// "$" is learned like the view: its UIDs, once they are known.
	savedFetch, savedKnown bool
	saved                  line.NumSet
	viewErr                reason
}

// command is one in flight.
type command struct {
	tag      string
	verb     string
	mailbox  []byte // of SELECT and EXAMINE, as RESUME can repeat it
	condsync bool   // switches CONDSTORE on (RFC 7162, 3.1)
	saves    bool
}

func (c *command) selects() bool { return c.verb == "SELECT" || c.verb == "EXAMINE" }

// selection is the selected mailbox as the client knows it.
type selection struct {
	on          bool
	mailbox     []byte // quoted, atom or non-synchronising literal, as on the wire
	readOnly    bool
	uidValidity uint32
	// modSeq is the HIGHESTMODSEQ of the SELECT: the client has heard of every
	// change up to it. Higher ones seen in FETCH prove nothing of those between.
	modSeq uint64
	exists uint32
	saved  bool // "$" holds a result
}

// idleState is IDLE as the two sides see it.
type idleState uint8

const (
	idleOff    idleState = iota
	idleAsked            // sent, no continuation yet
	idleOn               // the client may say DONE
	idleDone             // DONE was sent for the client
	idleEnding           // we said DONE; the client does not know
	idleParked           // ended at the backend; the client is still in IDLE
	idleAgain            // we said IDLE again, no continuation yet
)

// output is what a step wants to have done, in this order: octets to the
// client, octets to the backend. The slices are valid until the next step.
type output struct {
	client  [][]byte
	backend [][]byte
	wake    bool  // the client's input may go on
	frozen  bool  // the session has come to rest
	fatal   error // the session cannot go on
}

func (o *output) toClient(b []byte) {
	if len(b) > 0 {
		o.client = append(o.client, b)
	}
}

func (o *output) toBackend(b []byte) {
	if len(b) > 0 {
		o.backend = append(o.backend, b)
	}
}

func (o *output) reset() {
	clear(o.client)
	clear(o.backend)
	*o = output{client: o.client[:0], backend: o.backend[:0]}
}

// reason is why a session is closed rather than carried over. The list is
// closed: metrics and docs name each.
type reason string

const (
	reasonNotify      reason = "notify"             // NOTIFY is in use
	reasonContext     reason = "search-context"     // SEARCH RETURN (UPDATE) is in use
	reasonSaved       reason = "saved-search"       // "$" holds a result that the old store did not tell
	reasonEnabled     reason = "enabled-feature"    // an ENABLEd feature that RESUME does not know
	reasonLanguage    reason = "language"           // LANGUAGE or COMPARATOR was used
	reasonLogout      reason = "logout"             // the session is ending anyway
	reasonValidity    reason = "no-uidvalidity"     // the store gave none for the selected mailbox
	reasonView        reason = "view-unknown"       // the old store did not tell the UIDs, or contradicted itself
	reasonViewSize    reason = "view-too-large"     // more than 65,536 ranges of UIDs
	reasonBusy        reason = "busy"               // a command ran for too long at the third hold
	reasonRefused     reason = "refused-by-store"   // the new store answered NO to RESUME
	reasonConnect     reason = "store-unreachable"  // no connection or login at the new store
	reasonForeign     reason = "foreign-store"      // the new store has no RESUME
	reasonNoSecret    reason = "no-delegated-login" // the new store wants the user's own password
	reasonTransaction reason = "pop3-transaction"   // a POP3 session has not ended by itself at the third hold
	reasonOldClosed   reason = "old-store-closed"   // the old store closed during the hold
)

// attachable returns why not, or nothing.
func (t *tracker) attachable() reason {
	switch {
	case t.sticky != "":
		return t.sticky
	case t.logout || t.said:
		return reasonLogout
	case t.sel.on && t.sel.uidValidity == 0:
		return reasonValidity
	case t.sel.on && len(t.sel.mailbox) == 0:
		return reasonView
	}
	for _, f := range t.enabled {
		if !t.policy.resumable[f] {
			return reasonEnabled
		}
	}
	return t.viewErr
}

// enable records an ENABLEd feature.
func (t *tracker) enable(feature string) {
	if i, ok := slices.BinarySearch(t.enabled, feature); !ok {
		t.enabled = slices.Insert(t.enabled, i, feature)
	}
}

// quiet reports that both sides are between commands, an IDLE apart.
func (t *tracker) quiet() bool {
	if t.up.state != upCommand || t.down.state != downStart || len(t.flight) > 0 {
		return false
	}
	return t.idle != idleAsked && t.idle != idleDone
}

// boundary reports whether a line of our own may be sent to the client now.
func (t *tracker) boundary() bool { return t.down.state == downStart }

// find is the index of a tag in flight, -1 without.
func (t *tracker) find(tag []byte) int {
	for i := range t.flight {
		if t.flight[i].tag == string(tag) {
			return i
		}
	}
	return -1
}

// push registers a command before it is sent.
func (t *tracker) push(c command) {
	t.flight = append(t.flight, c)
	if len(t.flight) == 1 && c.selects() {
		t.next = selection{}
	}
}

// current is the selection that untagged data is about: servers answer in
// order, so a SELECT's data comes when it is the oldest command.
func (t *tracker) current() *selection {
	if len(t.flight) > 0 && t.flight[0].selects() {
		return &t.next
	}
	return &t.sel
}

// done applies a tagged response.
func (t *tracker) done(c command, ok, no, readOnly bool) {
	switch {
	case c.selects() && ok:
		t.sel = t.next
		t.sel.on, t.sel.mailbox = true, c.mailbox
		t.sel.readOnly = readOnly || c.verb == "EXAMINE"
	case c.selects() && no:
		t.sel = selection{} // RFC 9051, 6.3.2: no mailbox is selected
	case (c.verb == "CLOSE" || c.verb == "UNSELECT") && ok:
		t.sel = selection{}
	case c.verb == "NOTIFY" && ok:
		t.sticky = reasonNotify
	case (c.verb == "LANGUAGE" || c.verb == "COMPARATOR") && ok:
		t.sticky = reasonLanguage
	}
	if c.condsync && ok {
		t.enable("CONDSTORE")
	}
	if c.saves && ok {
		t.sel.saved = true
	}
	if len(t.flight) > 0 && t.flight[0].selects() {
		t.next = selection{}
	}
}

// number reads a decimal at the start of b; n is its length, 0 without one or
// when it does not fit.
func number(b []byte) (v uint64, n int) {
	for n < len(b) && b[n] >= '0' && b[n] <= '9' {
		if v > (1<<64-10)/10 {
			return 0, 0
		}
		v = v*10 + uint64(b[n]-'0')
		n++
	}
	return v, n
}

// countSet is the number of UIDs in a set as VANISHED lists it.
func countSet(b []byte) uint32 {
	s, ok := line.AppendNumSet(nil, b)
	if !ok {
		return 0
	}
	return uint32(s.Count())
}
