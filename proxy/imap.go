package proxy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"mailferry/backend"
	"mailferry/internal/line"
)

// imap is the protocol table of IMAP.
var imap = protocol{
	name: backend.IMAP, alpn: "imap",
	greet: func(f *front) error {
		f.c.WriteString("* OK [CAPABILITY " + f.capabilities() + "] " + f.p.o.Domain + " ready\r\n")
		return f.c.Flush()
	},
	read:    readIMAP,
	refuse:  refuseIMAP,
	welcome: welcomeIMAP,
	bye: func(f *front, text string) {
		f.c.WriteString("* BYE " + text + "\r\n")
		_ = f.c.Flush()
	},
	follow: func(f *front, r backend.Route, target string, b BackendConn) framing {
		return &tracker{policy: f.p.profiles.policy(r.Store, target, b.Caps), tag: "mf" + f.id}
	},
	goodbye: func(code, text string) string {
		if code == codeBad {
			return "* BAD " + text + "\r\n* BYE Too many errors\r\n"
		}
		return "* BYE [" + code + "] " + text + "\r\n"
	},
	say:       sayIMAP,
	challenge: func(text string) string { return "+ " + text + "\r\n" },
	response:  (*front).saslLine,
	unknown:   errNotIMAP,
}

func sayIMAP(tag string, r reply) string {
	return tag + " " + map[reply]string{
		replyNeedsTLS:  "NO [PRIVACYREQUIRED] TLS is required to log in",
		replyMechanism: "NO [CANNOT] Unsupported mechanism",
		replyInvalid:   "BAD Invalid response",
		replyNoTLS:     "BAD STARTTLS is not available",
		replyBeginTLS:  "OK Begin TLS",
		replyBehindTLS: "BAD Data behind STARTTLS",
	}[r] + "\r\n"
}

// maxCommands bounds the commands of a connection that does not log in,
// maxFailures the wrong credentials.
const (
	maxCommands = 20
	maxFailures = 3
)

// errQuit ends a connection before login without anything to report.
var errQuit = errors.New("connection ended before login")

// capabilities are what the state before login honours, nothing more.
func (f *front) capabilities() string {
	caps := "IMAP4rev1 LITERAL- SASL-IR ID"
	if f.offersTLS() {
		caps += " STARTTLS"
	}
	if f.mayLogin() {
		return caps + " AUTH=" + strings.Join(f.mechanisms(), " AUTH=")
	}
	return caps + " LOGINDISABLED"
}

// imapBefore are the commands before login. Each reads its arguments and
// answers; found is set by those that bring credentials.
var imapBefore = map[string]func(ctx context.Context, f *front, tag string) (c credentials, found bool, err error){
	"CAPABILITY": func(_ context.Context, f *front, tag string) (credentials, bool, error) {
		return credentials{}, false, f.answer(tag, "* CAPABILITY "+f.capabilities()+"\r\n", "OK done")
	},
	"NOOP": func(_ context.Context, f *front, tag string) (credentials, bool, error) {
		return credentials{}, false, f.answer(tag, "", "OK done")
	},
	"LOGOUT": func(_ context.Context, f *front, tag string) (credentials, bool, error) {
		_ = f.answer(tag, "* BYE Logging out\r\n", "OK done")
		return credentials{}, false, errQuit
	},
	"ID":           imapID,
	"STARTTLS":     imapStartTLS,
	"LOGIN":        imapLogin,
	"AUTHENTICATE": imapAuthenticate,
}

// readIMAP runs the dialogue up to the next LOGIN or AUTHENTICATE.
func readIMAP(ctx context.Context, f *front) (credentials, error) {
	for {
		if err := f.awaitCommand(); err != nil {
			return credentials{}, err
		}
		var tag, name string
		err := f.d.Begin()
		if err == nil && f.d.ExpectTag(&tag) && f.d.ExpectSP() {
			f.d.Keyword(&name)
		}
		run, known := imapBefore[name]
		if err == nil && f.d.Err() == nil && !known {
			f.d.Fail("Unknown command before login")
		}
		if f.d.Err() == nil {
			c, found, err := run(ctx, f, tag)
			if found || err != nil {
				return c, err
			}
		}
		err = f.syntax(func(code, text string) error {
			return f.answer(cmp.Or(tag, "*"), "", "BAD "+code+text)
		})
		if err != nil {
			return credentials{}, err
		}
	}
}

// awaitCommand waits for the next command within the bounds.
func (f *front) awaitCommand() error {
	f.commands++
	left := time.Until(f.deadline)
	switch {
	case f.commands > maxCommands:
		f.proto.bye(f, "Too many commands before login")
		return errQuit
	case left <= 0:
		f.proto.bye(f, "Login takes too long")
		return errQuit
	}
	err := f.c.Wait(min(f.p.o.CommandTimeout, left), left)
	if errors.Is(err, line.ErrIdle) {
		f.proto.bye(f, "Disconnected for inactivity")
		return errQuit
	}
	if err != nil {
		return errQuit
	}
	return nil
}

// syntax answers a command that did not parse, and finds the next one. What is
// too long, or late, ends the connection.
func (f *front) syntax(answer func(code, text string) error) error {
	err := f.d.Err()
	if err == nil {
		return nil
	}
	var bad *line.SyntaxError
	code, text := "", ""
	switch {
	case errors.As(err, &bad):
		text = bad.Text
	case errors.Is(err, line.ErrTooBig):
		code, text = "[TOOBIG] ", "Too long"
	case errors.Is(err, line.ErrLineTooLong):
		f.proto.bye(f, "Command line is too long")
		return errQuit
	case errors.Is(err, os.ErrDeadlineExceeded):
		f.proto.bye(f, "Login takes too long")
		return errQuit
	default:
		return errQuit
	}
	if err := f.d.Discard(int64(line.PreLogin.Command)); err != nil {
		f.proto.bye(f, "Command is too long")
		return errQuit
	}
	return answer(code, text)
}

// answer sends untagged lines and a tagged one.
func (f *front) answer(tag, untagged, tagged string) error {
	f.c.WriteString(untagged + tag + " " + tagged + "\r\n")
	if f.c.Flush() != nil {
		return errQuit
	}
	return nil
}

// imapID reads RFC 2971's list, whose strings may be literals, and tells the
// name of the product only.
func imapID(_ context.Context, f *front, tag string) (credentials, bool, error) {
	var s string
	var set bool
	d := f.d
	if d.ExpectSP() && !d.Word("NIL") {
		d.ExpectList(func() bool { return d.ExpectNString(&s, &set) })
	}
	if !d.ExpectEnd() {
		return credentials{}, false, nil
	}
	return credentials{}, false, f.answer(tag, "* ID (\"name\" \"mailferry\")\r\n", "OK done")
}

// imapStartTLS reads STARTTLS.
func imapStartTLS(ctx context.Context, f *front, tag string) (credentials, bool, error) {
	if !f.d.ExpectEnd() {
		return credentials{}, false, nil
	}
	return credentials{}, false, f.startTLS(ctx, tag)
}

// imapLogin reads LOGIN.
func imapLogin(_ context.Context, f *front, tag string) (credentials, bool, error) {
	var user, password string
	d := f.d
	if !d.ExpectSP() || !d.ExpectAString(&user) || !d.ExpectSP() || !d.ExpectAString(&password) || !d.ExpectEnd() {
		return credentials{}, false, nil
	}
	if !f.mayLogin() {
		return credentials{}, false, f.needsTLS(tag)
	}
	return credentials{tag: tag, user: user, password: backend.Secret(password)}, true, nil
}

// imapAuthenticate reads AUTHENTICATE, with and without an initial response
// (RFC 4959).
func imapAuthenticate(_ context.Context, f *front, tag string) (credentials, bool, error) {
	var mechanism string
	d := f.d
	if !d.ExpectSP() || !d.Keyword(&mechanism) {
		d.Fail("Mechanism expected")
		return credentials{}, false, nil
	}
	var initial []byte
	if d.SP() {
		initial = bytes.Clone(d.Rest())
	} else if !d.ExpectEnd() {
		return credentials{}, false, nil
	}
	return f.sasl(tag, mechanism, initial)
}

// refuseIMAP keeps the connection open, for another try. Unknown users, wrong
// passwords and disabled users get the same text.
func refuseIMAP(f *front, c credentials, o outcome) error {
	switch o {
	case outcomeDenied:
		return f.answer(c.tag, "", "NO [AUTHENTICATIONFAILED] Authentication failed")
	case outcomeHeld:
		return f.answer(c.tag, "", "NO [UNAVAILABLE] The mailbox is being moved, please try again")
	case outcomeInUse:
		return f.answer(c.tag, "", "NO [INUSE] The mailbox is in use")
	case outcomeTooMany:
		return f.answer(c.tag, "", "NO [LIMIT] Too many sessions of this user")
	case outcomePassword:
		return f.answer(c.tag, "", "NO [CANNOT] This mailbox needs a login with a password")
	case outcomeNoService:
		return f.answer(c.tag, "", "NO [UNAVAILABLE] IMAP is not available for this mailbox now")
	}
	return f.answer(c.tag, "", fmt.Sprintf("NO [UNAVAILABLE] Temporary failure, please try again (%s)", f.id))
}

func welcomeIMAP(f *front, c credentials, s *session) error {
	return f.answer(c.tag, "", "OK [CAPABILITY "+s.tr.(*tracker).policy.list()+"] Logged in")
}
