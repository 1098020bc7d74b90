package proxy

// framing follows one session after login from the octets of both sides and
// steers it through a hold. Implementations are pure: no I/O, no clock, no
// goroutine. The session around it serialises the calls and carries out what
// output says. tracker is IMAP's, lineTracker that of the other protocols.
type framing interface {
	// fromClient takes octets of the client and returns how many were used.
	// The rest has to be offered again with more behind it or, when more is
	// false, once an output says wake.
	fromClient(buf []byte, out *output) (n int, more bool)
	// fromBackend takes octets of the backend; the rest, at most longLine, has
	// to be offered again with more behind it.
	fromBackend(buf []byte, out *output) int
	// injects reports whether lines of our own wait for the client; takeInject
	// hands them out when the client may get them.
	injects() bool
	takeInject() []byte
	// quiet reports that both sides are between commands; boundary that a line
	// of our own may be sent to the client now.
	quiet() bool
	boundary() bool
	// ended reports that one side has said goodbye.
	ended() bool
	// stop takes no more commands: the session is about to be closed.
	stop()
	// gate reports that the client's input waits for a hold to end.
	gate() bool

	// hold leads the session to rest, release lets it go on; replaced says that
	// a fresh backend connection has taken the place of the old one. The
	// session must be at rest then.
	hold(out *output)
	release(out *output)
	replaced()
	resting() bool
	// late names what the client has not finished, openStep what we have not.
	late() string
	openStep() string
	// verdict is why a session at rest cannot be carried over, or nothing;
	// outlook is the same guess for one that is not at rest.
	verdict() reason
	outlook() reason
	// stays reports a session that cannot rest: it has to end before its user
	// moves.
	stays() bool
	// resume is what the new store has to be told: the command and its tag, or
	// no command. bare: a fresh login anywhere is as good as this session.
	resume() (cmd []byte, tag string, bare bool)
	// fits reports whether a backend that announces caps can go on with the
	// session.
	fits(caps []string) bool
	// describe fills in what is known of the session.
	describe(i *SessionInfo)
}

// The part of framing that tracker does not need for itself.

func (t *tracker) injects() bool        { return len(t.inject) > 0 }
func (t *tracker) ended() bool          { return t.said || t.logout }
func (t *tracker) stop()                { t.ending = true }
func (t *tracker) gate() bool           { return t.gated }
func (t *tracker) resting() bool        { return t.frozen }
func (t *tracker) outlook() reason      { return t.attachable() }
func (t *tracker) stays() bool          { return false }
func (t *tracker) fits(_ []string) bool { return true }
func (t *tracker) describe(i *SessionInfo) {
	i.Idle = t.idle != idleOff
	if t.sel.on {
		i.Mailbox = string(t.sel.mailbox)
	}
}

func (t *tracker) resume() (cmd []byte, tag string, bare bool) {
	return t.resumeCommand(), t.tag + "r", !t.sel.on && len(t.enabled) == 0
}

func (t *tracker) openStep() string {
	if t.fetching {
		return "FETCH (UID)"
	}
	return "DONE"
}

func (t *tracker) late() string {
	switch {
	case len(t.flight) > 0:
		return t.flight[0].verb
	case t.up.state != upCommand:
		return t.up.cmd.verb
	case t.idle == idleAsked, t.idle == idleDone:
		return "IDLE"
	}
	return ""
}
