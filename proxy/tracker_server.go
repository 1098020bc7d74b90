package proxy

import (
	"bytes"
	"errors"
	"slices"
)

// serverSide is where the parser stands in the backend's octets.
type serverSide struct {
	state   downState
	left    uint64 // of a literal
	swallow bool   // the present response is not for the client
	status  bool   // the present response ends in text: no literals
	instead []byte // what the client gets in its place
	tail    [24]byte
	tailLen int
}

type downState uint8

const (
	downStart   downState = iota // at the start of a response
	downRest                     // at the start of a line behind a literal
	downLong                     // in a line that is too long to be held back
	downLiteral                  // in a literal
)

var errNotIMAP = errors.New("the store does not speak IMAP")

// fromBackend takes octets of the backend and returns how many were used; the
// rest, at most longLine, is the start of a line and has to be offered again
// with more behind it.
func (t *tracker) fromBackend(buf []byte, out *output) int {
	n, pass := 0, 0 // buf[pass:n] is for the client and not handed out yet
	d := &t.down
	for n < len(buf) && out.fatal == nil {
		rest := buf[n:]
		used := 0
		switch d.state {
		case downLiteral:
			used = t.literal(len(rest))
		case downLong:
			used = t.long(rest)
		default:
			i := bytes.IndexByte(rest, '\n')
			if i < 0 && len(rest) < longLine {
				out.toClient(buf[pass:n])
				return n
			}
			if i < 0 {
				i = len(rest) - 1
			}
			if d.state == downStart {
				d.swallow, d.status, d.instead = false, false, nil
				d.swallow = t.response(rest[:i+1], out)
			}
			used = t.line(rest[:i+1])
		}
		if d.swallow {
			out.toClient(buf[pass:n])
			out.toClient(d.instead)
			d.instead = nil
			pass = n + used
		}
		n += used
		if d.state == downStart && t.gated {
			t.advance(out)
		}
	}
	out.toClient(buf[pass:n])
	return n
}

func (t *tracker) literal(have int) int {
	d := &t.down
	if uint64(have) < d.left {
		d.left -= uint64(have)
		return have
	}
	used := int(d.left)
	d.left, d.state = 0, downRest
	return used
}

// line ends a line, or begins a long one.
func (t *tracker) line(l []byte) int {
	d := &t.down
	if l[len(l)-1] != '\n' {
		d.state = downLong
		d.tailLen = copy(d.tail[:], l[max(0, len(l)-len(d.tail)):])
		return len(l)
	}
	t.endLine(l)
	return len(l)
}

// long goes on in a long line and remembers how it may end.
func (t *tracker) long(rest []byte) int {
	d := &t.down
	i := bytes.IndexByte(rest, '\n')
	if i < 0 {
		i = len(rest) - 1
	}
	l := rest[:i+1]
	if len(l) < len(d.tail) {
		joined := append(append([]byte(nil), d.tail[:d.tailLen]...), l...)
		l = joined[max(0, len(joined)-len(d.tail)):]
	}
	d.tailLen = copy(d.tail[:], l[max(0, len(l)-len(d.tail)):])
	if rest[i] == '\n' {
		t.endLine(d.tail[:d.tailLen])
	}
	return i + 1
}

// endLine decides what follows a line: a literal that it announces, or the
// next response.
func (t *tracker) endLine(l []byte) {
	d := &t.down
	d.state = downStart
	if d.status {
		return
	}
	if size, ok := announced(l); ok {
		d.state, d.left = downLiteral, size
		if size == 0 {
			d.state = downRest
		}
	}
}

// announced finds {n} or ~{n} at the end of a response line.
func announced(l []byte) (size uint64, ok bool) {
	n := len(l) - 1
	if n > 0 && l[n-1] == '\r' {
		n--
	}
	if n < 3 || l[n-1] != '}' {
		return 0, false
	}
	i := n - 2
	for i >= 0 && l[i] >= '0' && l[i] <= '9' {
		i--
	}
	if i < 0 || l[i] != '{' || i == n-2 {
		return 0, false
	}
	size, digits := number(l[i+1 : n-1])
	return size, digits == n-2-i
}

// response reads the start of a response. It reports whether the client must
// not see it, and adds what the client sees in its place to out.
func (t *tracker) response(l []byte, out *output) (swallow bool) {
	switch {
	case l[0] == '*' && len(l) > 3 && l[1] == ' ':
		if l[2] >= '0' && l[2] <= '9' {
			return t.numbered(l[2:])
		}
		return t.untagged(l, out)
	case l[0] == '+':
		t.down.status = true
		return t.goAhead(out)
	}
	t.down.status = true
	return t.tagged(l, out)
}

// numbered reads "* n EXISTS", EXPUNGE, FETCH and RECENT.
func (t *tracker) numbered(l []byte) (swallow bool) {
	v, n := number(l)
	if n == 0 || n+2 >= len(l) || v > 1<<32-1 {
		return false
	}
	word, sel := l[n+1:], t.current()
	switch word[0] | 0x20 {
	case 'f':
		return t.fetching && t.learn(uint32(v), word)
	case 'e':
		if hasWord(word, "EXISTS") {
			sel.exists = uint32(v)
		} else if hasWord(word, "EXPUNGE") && sel.exists > 0 {
			sel.exists--
			if t.gated && uint32(v) <= t.view.n {
				t.view.remove(uint32(v))
			}
		}
	}
	return false
}

// learn takes a FETCH response while ours runs. One with the UID alone is the
// answer to it; anything more is news for the client.
func (t *tracker) learn(seq uint32, l []byte) (swallow bool) {
	i := bytes.Index(l, []byte("UID "))
	if i < 0 || !hasWord(l, "FETCH") {
		return false
	}
	uid, n := number(l[i+4:])
	if n == 0 || uid > 1<<32-1 {
		return false
	}
	switch {
	case t.outdated:
	case t.savedFetch:
		if n := len(t.saved); n == 0 || t.saved[n-1].Stop < uint32(uid) {
			t.saved = t.saved.Add(uint32(uid))
		}
	default:
		t.view.learn(seq, uint32(uid))
	}
	return i == len("FETCH (") && len(l) > i+4+n && l[i+4+n] == ')'
}

// untagged reads "* WORD ...".
func (t *tracker) untagged(l []byte, out *output) (swallow bool) {
	word, args := cutWord(l[2:])
	switch len(word) {
	case 2, 3, 7:
		switch upper(word) {
		case "OK", "NO", "BAD":
			t.down.status = true
			return t.code(l, args, out)
		case "BYE":
			t.down.status, t.said = true, true
		case "PREAUTH":
			t.down.status = true
		case "ENABLED":
			for _, f := range bytes.Fields(args) {
				t.enable(upper(f))
			}
		}
	case 8:
		if upper(word) == "VANISHED" && !bytes.HasPrefix(args, []byte("(")) {
			t.vanished(bytes.TrimRight(args, "\r\n"))
		}
	case 10:
		if upper(word) == "CAPABILITY" {
			t.down.instead = []byte("* CAPABILITY " + t.policy.list() + "\r\n")
			return true
		}
	}
	return false
}

// vanished takes VANISHED without EARLIER (RFC 7162, 3.2.10.2).
func (t *tracker) vanished(set []byte) {
	sel := t.current()
	sel.exists -= min(sel.exists, countSet(set))
	t.view.bad = t.view.bad || t.view.n > 0 // those at rest have no IDLE to say so in
}

// code reads the response code of a status response; args begins behind the
// status word. A list of capabilities is replaced by ours.
func (t *tracker) code(l, args []byte, out *output) (swallow bool) {
	if len(args) < 2 || args[0] != '[' {
		return false
	}
	word, rest := cutWord(args[1:])
	word = bytes.TrimRight(word, "]")
	sel := t.current()
	v, _ := number(rest)
	switch upper(word) {
	case "CAPABILITY":
		end := bytes.IndexByte(args, ']')
		if end < 0 {
			out.fatal = errNotIMAP // a list longer than longLine
			return true
		}
		head := l[:len(l)-len(args)]
		t.down.instead = slices.Concat(head, []byte("[CAPABILITY "+t.policy.list()+"]"), args[end+1:])
		return true
	case "UIDVALIDITY":
		sel.uidValidity = uint32(v)
	case "HIGHESTMODSEQ":
		if sel == &t.next {
			sel.modSeq = v
		}
	case "NOMODSEQ":
		sel.modSeq = 0
	case "CLOSED":
		t.sel = selection{}
	}
	return false
}

// goAhead reads a continuation request: for our own IDLE, for the client's
// IDLE, or for the literal that the client wants to send.
func (t *tracker) goAhead(out *output) (swallow bool) {
	switch {
	case t.idle == idleAgain:
		t.idle = idleOn
		return true
	case t.up.state == upWaiting:
		t.up.state = upLiteral
		if t.up.left == 0 {
			t.up.state = upRest
		}
		out.wake = true
	case t.idle == idleAsked:
		t.idle = idleOn
		out.wake = true
	}
	return false
}

// tagged reads a tagged response.
func (t *tracker) tagged(l []byte, out *output) (swallow bool) {
	tag, rest := cutWord(l)
	word, args := cutWord(rest)
	status := upper(word)
	ok, no := status == "OK", status == "NO"
	if t.fetching && string(tag) == t.ownTag() {
		t.fetching = false
		t.fetched(ok)
		return true
	}
	if t.idle != idleOff && string(tag) == t.idleTag {
		return t.idleAnswered(l, args, out)
	}
	i := t.find(tag)
	if i < 0 {
		if len(tag) == 0 || !ok && !no && status != "BAD" {
			return false
		}
		return t.code(l, args, out)
	}
	c := t.flight[i]
	readOnly := bytes.HasPrefix(args, []byte("[READ-ONLY]"))
	swallow = t.code(l, args, out)
	t.flight = append(t.flight[:i], t.flight[i+1:]...)
	if len(t.flight) == maxFlight-1 {
		out.wake = true
	}
	if t.up.state == upWaiting && t.up.cmd.tag == c.tag {
		t.up.state = upCommand // the literal was refused
		out.wake = true
	}
	t.done(c, ok, no, readOnly)
	return swallow
}

// idleAnswered reads the end of an IDLE. When we ended it, the client does not
// hear of it.
func (t *tracker) idleAnswered(l, args []byte, out *output) (swallow bool) {
	if t.idle == idleEnding {
		t.idle = idleParked
		return true
	}
	swallow = t.code(l, args, out)
	t.idle, t.idleTag = idleOff, ""
	out.wake = true
	return swallow
}

// cutWord cuts at the first space or line end.
func cutWord(b []byte) (word, rest []byte) {
	for i, c := range b {
		switch c {
		case ' ':
			return b[:i], b[i+1:]
		case '\r', '\n':
			return b[:i], b[i:]
		}
	}
	return b, nil
}

// hasWord compares the start of b with an upper-case word, in any case.
func hasWord(b []byte, word string) bool {
	if len(b) < len(word) {
		return false
	}
	for i := range len(word) {
		c := b[i]
		if c >= 'a' && c <= 'z' {
			c -= 'a' - 'A'
		}
		if c != word[i] {
			return false
		}
	}
	return len(b) == len(word) || b[len(word)] == ' ' || b[len(word)] == '\r' || b[len(word)] == '\n'
}

// upper is an upper-case copy; words of the protocol are ASCII.
func upper(b []byte) string {
	s := make([]byte, len(b))
	for i, c := range b {
		if c >= 'a' && c <= 'z' {
			c -= 'a' - 'A'
		}
		s[i] = c
	}
	return string(s)
}
