package proxy

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"strings"

	"mailferry/backend"
	"mailferry/internal/line"
)

// managesieve is the protocol table of ManageSieve (RFC 5804).
var managesieve = protocol{
	name: backend.ManageSieve, alpn: "managesieve",
	greet: func(f *front) error {
		f.d.Continue = nil // only literals that nobody waits for
		return f.write(f.sieveCapabilities() + "OK " + sieveString(f.p.o.Domain+" ready") + "\r\n")
	},
	read: readSieve,
	refuse: func(f *front, _ credentials, o outcome) error {
		return f.write(sieveRefusal(f, o))
	},
	welcome: func(f *front, _ credentials, _ *session) error { return f.write("OK \"Logged in\"\r\n") },
	bye:     func(f *front, text string) { _ = f.write("BYE " + sieveString(text) + "\r\n") },
	follow: func(_ *front, _ backend.Route, _ string, b BackendConn) framing {
		return &lineTracker{dialect: &sieveDialect, caps: b.Caps}
	},
	goodbye: func(code, text string) string {
		if code == codeBad {
			return "BYE " + sieveString(text) + "\r\n"
		}
		return "BYE (TRYLATER) " + sieveString(text) + "\r\n"
	},
	say:       saySieve,
	challenge: func(text string) string { return sieveString(text) + "\r\n" },
	response:  sieveResponse,
	secured: func(f *front) error { // RFC 5804, 2.2
		return f.write(f.sieveCapabilities() + "OK \"TLS is on\"\r\n")
	},
	unknown: errNotSieve,
}

var errNotSieve = errors.New("the store does not speak ManageSieve")

func saySieve(_ string, r reply) string {
	return map[reply]string{
		replyNeedsTLS:  `NO (ENCRYPT-NEEDED) "TLS is required to log in"`,
		replyMechanism: `NO "Unsupported mechanism"`,
		replyInvalid:   `NO "Invalid response"`,
		replyNoTLS:     `NO "STARTTLS is not available"`,
		replyBeginTLS:  `OK "Begin TLS"`,
		replyBehindTLS: `NO "Data behind STARTTLS"`,
	}[r] + "\r\n"
}

func sieveRefusal(f *front, o outcome) string {
	switch o {
	case outcomeDenied:
		return "NO \"Authentication failed\"\r\n"
	case outcomeHeld:
		return "NO (TRYLATER) \"The mailbox is being moved, please try again\"\r\n"
	case outcomeTooMany:
		return "NO (TRYLATER) \"Too many sessions of this user\"\r\n"
	case outcomePassword:
		return "NO \"This mailbox needs a login with a password\"\r\n"
	case outcomeNoService:
		return "NO (TRYLATER) \"ManageSieve is not available for this mailbox now\"\r\n"
	}
	return "NO (TRYLATER) \"Temporary failure, please try again (" + f.id + ")\"\r\n"
}

// sieveString quotes a text of ours.
func sieveString(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\r", " ", "\n", " ").Replace(s) + `"`
}

// sieveExtensions are announced before login, when nobody knows which store it
// will be: what Dovecot's Pigeonhole and Cyrus both have. After login a client
// that asks again gets the store's own list.
const sieveExtensions = "fileinto reject envelope vacation imap4flags subaddress relational comparator-i;ascii-numeric regex " +
	"copy date index variables body mailbox ihave duplicate"

func (f *front) sieveCapabilities() string {
	caps := "\"IMPLEMENTATION\" \"mailferry\"\r\n\"SIEVE\" \"" + sieveExtensions + "\"\r\n\"SASL\" \""
	if f.mayLogin() {
		caps += strings.Join(f.mechanisms(), " ")
	}
	caps += "\"\r\n"
	if f.offersTLS() {
		caps += "\"STARTTLS\"\r\n"
	}
	return caps + "\"VERSION\" \"1.0\"\r\n"
}

// readSieve runs the dialogue up to the next AUTHENTICATE.
func readSieve(ctx context.Context, f *front) (credentials, error) {
	for {
		if err := f.awaitCommand(); err != nil {
			return credentials{}, err
		}
		var name string
		err := f.d.Begin()
		if err == nil {
			f.d.Keyword(&name)
		}
		run, known := sieveBefore[name]
		if err == nil && !known {
			f.d.Fail("Unknown command before login")
		}
		if f.d.Err() == nil {
			c, found, err := run(ctx, f)
			if found || err != nil {
				return c, err
			}
		}
		if err := f.syntax(f.sieveBad); err != nil {
			return credentials{}, err
		}
	}
}

func (f *front) sieveBad(_, text string) error {
	return f.write("NO " + sieveString(text) + "\r\n")
}

// sieveBefore are the commands before login; found is set by those that bring
// credentials. An error of syntax stays in the decoder.
var sieveBefore = map[string]func(ctx context.Context, f *front) (c credentials, found bool, err error){
	"CAPABILITY": func(_ context.Context, f *front) (credentials, bool, error) {
		if !f.d.ExpectEnd() {
			return credentials{}, false, nil
		}
		return credentials{}, false, f.write(f.sieveCapabilities() + "OK \"done\"\r\n")
	},
	"NOOP": sieveNoop,
	"LOGOUT": func(_ context.Context, f *front) (credentials, bool, error) {
		_ = f.write("OK \"Logging out\"\r\n")
		return credentials{}, false, errQuit
	},
	"STARTTLS": func(ctx context.Context, f *front) (credentials, bool, error) {
		if !f.d.ExpectEnd() {
			return credentials{}, false, nil
		}
		return credentials{}, false, f.startTLS(ctx, "")
	},
	"AUTHENTICATE": sieveAuthenticate,
}

// sieveNoop gives a tag back (RFC 5804, 2.13).
func sieveNoop(_ context.Context, f *front) (credentials, bool, error) {
	var tag string
	if f.d.SP() {
		f.d.ExpectString(&tag)
	}
	if !f.d.ExpectEnd() {
		return credentials{}, false, nil
	}
	if tag == "" {
		return credentials{}, false, f.write("OK \"done\"\r\n")
	}
	return credentials{}, false, f.write("OK (TAG {" + strconv.Itoa(len(tag)) + "}\r\n" + tag + ") \"done\"\r\n")
}

// sieveAuthenticate reads AUTHENTICATE, with and without an initial response.
// All arguments are strings.
func sieveAuthenticate(_ context.Context, f *front) (credentials, bool, error) {
	var mechanism, response string
	var initial []byte
	d := f.d
	if !d.ExpectSP() || !d.ExpectString(&mechanism) {
		return credentials{}, false, nil
	}
	if d.SP() && d.ExpectString(&response) {
		initial = []byte(response)
	}
	if !d.ExpectEnd() {
		return credentials{}, false, nil
	}
	return f.sasl("", mechanism, initial)
}

// sieveResponse reads the string that answers a challenge.
func sieveResponse(f *front) ([]byte, error) {
	var s string
	if f.d.Begin() == nil && f.d.ExpectString(&s) && f.d.ExpectEnd() {
		return []byte(s), nil
	}
	if err := f.syntax(func(string, string) error { return nil }); err != nil {
		return nil, err
	}
	f.d = line.NewDecoder(f.c.Reader, line.PreLogin) // the error is answered
	return nil, line.ErrSASL
}

// sieveDialect is ManageSieve after login. Any command may pass: all answers
// are framed alike.
var sieveDialect = dialect{literals: true, bad: errNotSieve, max: maxLine, command: sieveCommand, reply: sieveReply}

func sieveCommand(l []byte) (lineCommand, string) {
	word, _ := cutWord(l)
	c := lineCommand{verb: upper(word[:min(len(word), 32)])}
	if bad := malformed(l); bad != "" {
		return c, "NO " + sieveString(bad) + "\r\n"
	}
	switch c.verb {
	case "LOGOUT":
		c.quits = true
	case "AUTHENTICATE", "STARTTLS", "UNAUTHENTICATE", "XCLIENT":
		return c, "NO \"Already logged in\"\r\n"
	}
	return c, ""
}

func sieveReply(l []byte, _ *lineCommand) lineReply {
	switch {
	case hasWord(l, "OK"), hasWord(l, "NO"):
		return replyLast
	case hasWord(l, "BYE"):
		return replyBye
	case bytes.HasPrefix(l, []byte(`"`)), bytes.HasPrefix(l, []byte("{")):
		return replyData
	}
	return replyGarbage
}
