package proxy

import (
	"bytes"
	"errors"
	"slices"
	"strconv"
	"strings"
)

// clientSide is where the parser stands in the client's octets.
type clientSide struct {
	state upState
	left  uint64  // of a literal
	cmd   command // being received
	text  []byte  // of a SELECT, with its literals
	// refusal is the answer to a command that is not passed on, once its
	// literals have gone by.
	refusal string
	// instead of the first line, when it is passed on changed.
	instead []byte
}

type upState uint8

const (
	upCommand upState = iota // at the start of a command
	upWaiting                // a synchronising literal was announced
	upLiteral                // in a literal
	upRest                   // behind a literal
)

var errLineTooLong = errors.New("command line is too long")

// fromClient takes octets of the client and returns how many were used. The
// rest has to be offered again with more behind it or, when more is false,
// once an output says wake.
func (t *tracker) fromClient(buf []byte, out *output) (n int, more bool) {
	for n < len(buf) && out.fatal == nil {
		rest := buf[n:]
		switch t.up.state {
		case upWaiting:
			return n, false
		case upLiteral:
			n += t.upLiteral(rest, out)
			continue
		case upCommand:
			if t.blocked() {
				return n, false
			}
		}
		i := bytes.IndexByte(rest, '\n')
		if i < 0 && len(rest) >= maxLine || i >= maxLine {
			out.fatal = errLineTooLong
			return n, false
		}
		if i < 0 {
			return n, true
		}
		used := t.upLine(rest[:i+1], out)
		if used == 0 {
			return n, false
		}
		n += used
	}
	return n, true
}

// blocked reports that no new command may be taken now.
func (t *tracker) blocked() bool {
	return t.gated || t.logout || t.ending || len(t.flight) >= maxFlight || t.idle == idleAsked || t.idle == idleDone
}

func (t *tracker) upLiteral(rest []byte, out *output) int {
	used := len(rest)
	if uint64(used) >= t.up.left {
		used = int(t.up.left)
		t.up.state = upRest
	}
	t.up.left -= uint64(used)
	t.forward(rest[:used], out)
	return used
}

// forward passes octets of the present command on, unless it was refused.
func (t *tracker) forward(b []byte, out *output) {
	if t.up.refusal != "" {
		return
	}
	out.toBackend(b)
	if t.up.cmd.selects() && len(t.up.text)+len(b) <= maxText {
		t.up.text = append(t.up.text, b...)
	}
}

// upLine takes one line of a command; 0 means that it has to wait.
func (t *tracker) upLine(l []byte, out *output) int {
	n := len(l)
	if t.up.state == upCommand {
		if t.idle == idleOn {
			return t.endIdle(l, out)
		}
		t.begin(l)
		if t.up.instead != nil {
			l = t.up.instead
		}
	} else if bad := malformed(l); bad != "" {
		// The command's first lines are at the backend already, and the two of
		// us may not agree on what is a literal: no way to go on.
		out.fatal = errors.New(bad)
		return n
	}
	size, sync, has := literalOf(l)
	has = has && (t.up.refusal == "" || malformed(l) == "")
	if has && !sync && size > 0 && !t.nonSync() {
		out.fatal = errors.New("LITERAL+ was not announced")
		return n
	}
	t.scan(l)
	if t.up.state == upCommand && t.up.refusal == "" {
		t.push(t.up.cmd)
	}
	if t.idle == idleAsked {
		t.flight = t.flight[:len(t.flight)-1] // kept apart
	}
	t.forward(l, out)
	switch {
	case has && sync && t.up.refusal != "":
		t.finish(out) // never asked for
	case has && sync:
		t.up.state, t.up.left = upWaiting, size
	case has && size > 0:
		t.up.state, t.up.left = upLiteral, size
	case has:
		t.up.state = upRest
	default:
		t.finish(out)
	}
	return n
}

func (t *tracker) nonSync() bool {
	return t.policy.has["LITERAL+"] || t.policy.has["LITERAL-"] || t.policy.has["IMAP4REV2"]
}

// endIdle takes the line that ends IDLE. Anything but DONE ends it as well, and
// is then taken as the next command: some clients forget DONE.
func (t *tracker) endIdle(l []byte, out *output) int {
	t.idle = idleDone
	out.toBackend([]byte("DONE\r\n"))
	if strings.EqualFold(string(bytes.TrimRight(l, " \r\n")), "DONE") {
		return len(l)
	}
	return 0
}

// begin reads the first line of a command: its tag, its name, and whether it
// is admitted.
func (t *tracker) begin(l []byte) {
	t.up.cmd, t.up.refusal, t.up.instead, t.up.text = command{}, "", nil, t.up.text[:0]
	tag, rest := cutWord(l)
	if !validTag(tag) {
		t.up.refusal = "* BAD Invalid tag"
		return
	}
	word, args := cutWord(rest)
	verb := upper(word[:min(len(word), 32)])
	t.up.cmd.tag, t.up.cmd.verb = string(tag), verb
	why := malformed(l)
	if verb == "IDLE" && len(bytes.TrimSpace(args)) > 0 {
		why = "IDLE has no arguments"
	}
	if why == "" {
		why = t.admit(verb, args)
	}
	switch {
	case why != "":
		t.up.refusal = string(tag) + " BAD " + why
	case verb == "IDLE":
		t.idle, t.idleTag = idleAsked, string(tag)
	case verb == "LOGOUT":
		t.logout = true
	case verb == "ENABLE":
		t.enableSome(tag, args)
	}
}

// enableSome leaves out of an ENABLE what the session may not have. One that is
// left without names is answered here.
func (t *tracker) enableSome(tag, args []byte) {
	_, _, literal := literalOf(args)
	switch kept, all := t.policy.enables(args); {
	case literal:
		t.up.refusal = string(tag) + " BAD Names of extensions are atoms"
	case all:
	case len(kept) == 0:
		t.up.refusal = "* ENABLED\r\n" + string(tag) + " OK Nothing to enable"
	default:
		t.up.instead = []byte(string(tag) + " ENABLE " + strings.Join(kept, " ") + "\r\n")
	}
}

func (t *tracker) admit(verb string, args []byte) string {
	head := upper(args[:min(len(args), maxText)])
	if verb == "UID" {
		sub, rest := cutWord([]byte(head))
		switch verb = string(sub); verb {
		case "FETCH", "STORE", "SEARCH", "COPY", "MOVE", "SORT", "THREAD", "REPLACE":
			head = string(rest)
		case "EXPUNGE":
			if !t.policy.has["UIDPLUS"] && !t.policy.has["IMAP4REV2"] {
				return "Unknown command"
			}
		default:
			return "Unknown command"
		}
	}
	switch verb {
	case "LOGIN", "AUTHENTICATE", "STARTTLS":
		return "Already logged in"
	}
	return t.policy.admits(verb, head)
}

// scan looks for what a command switches on. It reads every line of a command,
// because arguments may stand behind a literal.
func (t *tracker) scan(l []byte) {
	c := &t.up.cmd
	switch c.verb {
	case "FETCH", "STORE", "SEARCH", "SORT", "THREAD", "UID", "STATUS", "SELECT", "EXAMINE", "LIST":
	default:
		return
	}
	head := upper(l[:min(len(l), maxText)])
	if tail := len(l) - maxText; tail > 0 { // what matters may follow a long set
		head += " " + upper(l[max(maxText, len(l)-maxText):])
	}
	for _, w := range []string{"MODSEQ", "CHANGEDSINCE", "(CONDSTORE", "(QRESYNC"} {
		c.condsync = c.condsync || strings.Contains(head, w)
	}
	for _, w := range returnOptions(head) {
		c.saves = c.saves || w == "SAVE"
		if w == "UPDATE" {
			t.sticky = reasonContext
		}
	}
}

// finish ends a command: a refused one is answered now.
func (t *tracker) finish(out *output) {
	t.up.state = upCommand
	if t.up.refusal != "" {
		t.inject = append(append(t.inject, t.up.refusal...), "\r\n"...)
		t.up.refusal = ""
		return
	}
	if t.up.cmd.selects() {
		t.up.cmd.mailbox = mailboxOf(t.up.text)
	}
	if i := t.find([]byte(t.up.cmd.tag)); i >= 0 && t.flight[i].verb == t.up.cmd.verb {
		t.flight[i] = t.up.cmd // its last lines may have said more
	}
	if t.gated {
		t.advance(out)
	}
}

// takeInject hands out our own lines when the client may get them.
func (t *tracker) takeInject() []byte {
	if !t.boundary() || len(t.inject) == 0 {
		return nil
	}
	b := t.inject
	t.inject = nil
	return b
}

// mailboxOf is the first argument of a SELECT, as it can be sent again:
// synchronising literals become non-synchronising ones.
func mailboxOf(text []byte) []byte {
	_, rest := cutWord(text)
	_, arg := cutWord(rest)
	if len(arg) == 0 {
		return nil
	}
	switch arg[0] {
	case '"':
		for i := 1; i < len(arg); i++ {
			switch arg[i] {
			case '\\':
				i++
			case '"':
				return slices.Clone(arg[:i+1])
			}
		}
		return nil
	case '{':
		i := bytes.IndexByte(arg, '\n')
		size, n := number(arg[1:])
		if i < 0 || n == 0 || uint64(len(arg)-i-1) < size {
			return nil
		}
		head := "{" + strconv.FormatUint(size, 10) + "+}\r\n"
		return slices.Concat([]byte(head), arg[i+1:i+1+int(size)])
	}
	word, _ := cutWord(arg)
	return slices.Clone(word)
}

// literalOf finds the literal that a client's line announces at its end.
func literalOf(l []byte) (size uint64, sync, ok bool) {
	l = bytes.TrimRight(l, "\r\n")
	if len(l) == 0 || l[len(l)-1] != '}' {
		return 0, false, false
	}
	sync = len(l) < 2 || l[len(l)-2] != '+'
	digits := l[:len(l)-1]
	if !sync {
		digits = l[:len(l)-2]
	}
	i := len(digits)
	for i > 0 && digits[i-1] >= '0' && digits[i-1] <= '9' {
		i--
	}
	size, n := number(digits[i:])
	if n == 0 || i == 0 || digits[i-1] != '{' {
		return 0, false, false
	}
	return size, sync, true
}

// malformed says why a line is not passed on. Client and backend must have one
// opinion on where commands end, so what one of them could misread is refused:
// NUL, bare CR, an open quote, a literal in the middle of a word.
func malformed(l []byte) string {
	l = bytes.TrimSuffix(bytes.TrimSuffix(l, []byte("\n")), []byte("\r"))
	quoted := false
	for i := 0; i < len(l); i++ {
		switch c := l[i]; {
		case c == 0 || c == '\r':
			return "Invalid character"
		case c == '\\' && quoted:
			i++
			if i == len(l) {
				return "Open quote"
			}
		case c == '"':
			quoted = !quoted
		}
	}
	if quoted {
		return "Open quote"
	}
	if len(l) == 0 || l[len(l)-1] != '}' || bytes.IndexByte(l, '{') < 0 { // an atom may hold "}"
		return ""
	}
	if _, _, ok := literalOf(l); !ok {
		return "Invalid literal"
	}
	i := bytes.LastIndexByte(l, '{')
	if i > 0 && l[i-1] == '~' {
		i--
	}
	if i == 0 || l[i-1] != ' ' && l[i-1] != '(' {
		return "Invalid literal"
	}
	return ""
}

// validTag: RFC 9051, 9: any ASTRING-CHAR but "+".
func validTag(tag []byte) bool {
	if len(tag) == 0 || len(tag) > maxTag {
		return false
	}
	for _, c := range tag {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`(){%*"\+`, c) >= 0 {
			return false
		}
	}
	return true
}
