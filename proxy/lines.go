package proxy

import (
	"bytes"
	"errors"
	"slices"
)

// dialect is what a protocol of command lines has of its own for lineTracker:
// one whose server answers each command once, in order.
type dialect struct {
	// command reads a client's line. When own is not empty, it is the answer
	// and the command is not passed on.
	command func(l []byte) (c lineCommand, own string)
	// reply reads a line of the server at the start of a reply; c is the command
	// that it answers, nil without one.
	reply func(l []byte, c *lineCommand) lineReply
	// literals: lines of both sides may announce literals.
	literals bool
	// stays: a session cannot be carried over, nor rest.
	stays bool
	bad   error // the store speaks something else
	max   int   // longest line of a client
}

// lineCommand is a command in flight.
type lineCommand struct {
	verb  string
	multi bool   // a success is followed by lines up to a lone dot
	quits bool   // the last command
	own   string // our answer in the store's place
}

// lineReply is what a line of the server means.
type lineReply uint8

const (
	replyGarbage lineReply = iota
	replyData              // more lines of the reply follow
	replyBody              // lines up to a lone dot follow
	replyLast              // the reply ends with this line
	replyBye               // the server is about to close
)

// lineTracker is the framing of a dialect. It keeps its own answers in order
// with those of the store.
type lineTracker struct {
	*dialect
	caps []string // of the store; a move has to find the same

	up      upState
	upLeft  uint64
	refused bool // the command that is being received is not passed on
	down    downState
	left    uint64
	last    bool // the line that has begun is the last one of its reply
	dots    int  // octets of the end of a body that have been seen
	flight  []lineCommand
	logout  bool
	said    bool
	ending  bool
	holding bool
	gated   bool
	frozen  bool
}

// downBody: in lines up to a lone dot.
const downBody = downLiteral + 1

var errSyncLiteral = errors.New("literals need a plus sign")

func (t *lineTracker) fromClient(buf []byte, out *output) (n int, more bool) {
	for n < len(buf) && out.fatal == nil {
		rest := buf[n:]
		if t.up == upLiteral {
			used := int(min(t.upLeft, uint64(len(rest))))
			t.pass(rest[:used], out)
			n += used
			if t.upLeft -= uint64(used); t.upLeft == 0 {
				t.up = upRest
			}
			continue
		}
		if t.up == upCommand && (t.gated || t.logout || t.ending || len(t.flight) >= maxFlight) {
			return n, false
		}
		i := bytes.IndexByte(rest, '\n')
		if i < 0 && len(rest) < t.max {
			return n, true
		}
		if i < 0 || i >= t.max {
			out.fatal = errLineTooLong
			return n, false
		}
		t.upLine(rest[:i+1], out)
		n += i + 1
	}
	return n, true
}

// upLine takes a whole line of the client.
func (t *lineTracker) upLine(l []byte, out *output) {
	if t.up == upCommand {
		c, own := t.command(l)
		c.own = own
		t.refused, t.logout = own != "", c.quits && own == ""
		t.flight = append(t.flight, c)
	} else if bad := malformed(l); bad != "" {
		out.fatal = errors.New(bad)
		return
	}
	t.up = upCommand
	if t.literals {
		size, sync, has := literalOf(l)
		switch has = has && malformed(l) == ""; {
		case has && sync:
			out.fatal = errSyncLiteral // nobody can tell what follows
			return
		case has && size > 0:
			t.up, t.upLeft = upLiteral, size
		case has:
			t.up = upRest
		}
	}
	t.pass(l, out)
	t.advance(out)
}

// pass sends octets of a command on, unless we answer it.
func (t *lineTracker) pass(b []byte, out *output) {
	if !t.refused {
		out.toBackend(b)
	}
}

func (t *lineTracker) fromBackend(buf []byte, out *output) int {
	n, handed := 0, 0
	for n < len(buf) && out.fatal == nil {
		used := t.downStep(buf[n:], out)
		if used == 0 {
			break
		}
		n += used
		if own := t.takeInject(); own != nil {
			out.toClient(buf[handed:n])
			out.toClient(own)
			handed = n
		}
		t.advance(out)
	}
	out.toClient(buf[handed:n])
	if out.fatal != nil {
		return len(buf) // what nobody understands is not for the client
	}
	return n
}

// downStep takes octets up to the next change of state; 0: more are needed.
func (t *lineTracker) downStep(rest []byte, out *output) int {
	switch t.down {
	case downLiteral:
		used := int(min(t.left, uint64(len(rest))))
		if t.left -= uint64(used); t.left == 0 {
			t.down = downRest
		}
		return used
	case downBody:
		return t.body(rest, out)
	}
	i := bytes.IndexByte(rest, '\n')
	if i < 0 {
		if len(rest) >= longLine {
			out.fatal = t.bad
		}
		return 0
	}
	l := rest[:i+1]
	if t.down == downStart {
		t.begin(l, out)
	}
	if out.fatal != nil {
		return 0
	}
	if t.down == downBody {
		return len(l)
	}
	t.down = downStart
	if t.literals {
		if size, ok := announced(l); ok {
			if t.down, t.left = downLiteral, size; size == 0 {
				t.down = downRest
			}
			return len(l)
		}
	}
	if t.last {
		t.answered(out)
	}
	return len(l)
}

// begin reads the first line of something from the server.
func (t *lineTracker) begin(l []byte, out *output) {
	var c *lineCommand
	if len(t.flight) > 0 && t.flight[0].own == "" {
		c = &t.flight[0]
	}
	t.last = false
	switch t.reply(l, c) {
	case replyGarbage:
		out.fatal = t.bad
	case replyBody:
		t.down, t.dots = downBody, 2
	case replyLast:
		t.last = true
	case replyBye:
		t.last, t.said = true, true
	}
}

// answered ends the reply to the oldest command.
func (t *lineTracker) answered(out *output) {
	t.down, t.last = downStart, false
	if len(t.flight) == 0 || t.flight[0].own != "" {
		return // nobody asked
	}
	out.wake = out.wake || len(t.flight) == maxFlight
	t.flight = slices.Delete(t.flight, 0, 1)
}

// bodyEnd ends a body (RFC 1939, 3).
const bodyEnd = "\r\n.\r\n"

// body takes octets of a body; it counts how much of its end has been seen.
func (t *lineTracker) body(rest []byte, out *output) int {
	for i := 0; i < len(rest); i++ {
		if t.dots == 0 {
			j := bytes.IndexByte(rest[i:], '\r')
			if j < 0 {
				return len(rest)
			}
			i += j
		}
		switch c := rest[i]; {
		case c == bodyEnd[t.dots]:
			t.dots++
		case c == '\r':
			t.dots = 1
		default:
			t.dots = 0
		}
		if t.dots == len(bodyEnd) {
			t.answered(out)
			return i + 1
		}
	}
	return len(rest)
}

// injects and takeInject: an answer of our own is due when all before it are
// given.
func (t *lineTracker) injects() bool {
	return t.boundary() && len(t.flight) > 0 && t.flight[0].own != "" && t.received()
}

func (t *lineTracker) takeInject() []byte {
	var b []byte
	for t.injects() {
		b = append(b, t.flight[0].own...)
		t.flight = slices.Delete(t.flight, 0, 1)
	}
	return b
}

// received reports that the oldest command has come whole: one that we refuse
// may have literals on their way.
func (t *lineTracker) received() bool { return len(t.flight) > 1 || t.up == upCommand }

func (t *lineTracker) boundary() bool { return t.down == downStart }
func (t *lineTracker) ended() bool    { return t.said || t.logout || t.ending }
func (t *lineTracker) stop()          { t.ending = true }
func (t *lineTracker) gate() bool     { return t.gated }
func (t *lineTracker) resting() bool  { return t.frozen }
func (t *lineTracker) stays() bool    { return t.dialect.stays }

// quiet: answers of our own may be open, they need no store.
func (t *lineTracker) quiet() bool {
	return t.up == upCommand && t.down == downStart && t.asked() == nil
}

// asked is the oldest command that the store has to answer.
func (t *lineTracker) asked() *lineCommand {
	for i := range t.flight {
		if t.flight[i].own == "" {
			return &t.flight[i]
		}
	}
	return nil
}

// hold stops new commands; of a session that stays only once stop was called:
// it is to reach its own end.
func (t *lineTracker) hold(out *output) {
	t.holding, t.frozen, t.gated = true, false, !t.stays()
	t.advance(out)
}

func (t *lineTracker) release(out *output) {
	t.holding, t.frozen, t.gated = false, false, false
	out.wake = true
}

func (t *lineTracker) replaced() { t.down, t.said = downStart, false }

func (t *lineTracker) advance(out *output) {
	if t.holding && !t.frozen && t.quiet() && (t.gated || t.ending) {
		t.frozen, out.frozen = true, true
	}
}

func (t *lineTracker) late() string {
	switch c := t.asked(); {
	case c != nil:
		return c.verb
	case !t.quiet(), t.stays():
		return "the session"
	}
	return ""
}

func (t *lineTracker) openStep() string { return "" }

func (t *lineTracker) outlook() reason {
	switch {
	case t.stays():
		return reasonTransaction
	case t.logout || t.said:
		return reasonLogout
	}
	return ""
}

func (t *lineTracker) verdict() reason { return t.outlook() }

func (t *lineTracker) resume() (cmd []byte, tag string, bare bool) { return nil, "", true }

func (t *lineTracker) fits(caps []string) bool { return slices.Equal(t.caps, caps) }

func (t *lineTracker) describe(*SessionInfo) {}

// plainLine reports whether a line holds no octets that the two sides may read
// differently.
func plainLine(l []byte) bool {
	l = bytes.TrimSuffix(bytes.TrimSuffix(l, []byte("\n")), []byte("\r"))
	return bytes.IndexFunc(l, func(r rune) bool { return r < ' ' || r == 0x7f }) < 0
}
