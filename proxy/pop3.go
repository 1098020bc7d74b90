package proxy

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"

	"mailferry/backend"
	"mailferry/internal/line"
)

// pop3 is the protocol table of POP3 (RFC 1939, 2449, 2595, 5034).
var pop3 = protocol{
	name: backend.POP3, alpn: "pop3",
	greet: func(f *front) error {
		return f.write("+OK " + f.p.o.Domain + " ready\r\n")
	},
	read: readPOP3,
	refuse: func(f *front, _ credentials, o outcome) error {
		return f.write(pop3Refusal(f, o))
	},
	welcome: func(f *front, _ credentials, _ *session) error { return f.write("+OK Logged in\r\n") },
	bye:     func(f *front, text string) { _ = f.write("-ERR " + text + "\r\n") },
	follow: func(*front, backend.Route, string, BackendConn) framing {
		return &lineTracker{dialect: &pop3Dialect}
	},
	goodbye: func(code, text string) string {
		if code == codeBad {
			return "-ERR " + text + "\r\n"
		}
		return "-ERR [SYS/TEMP] " + text + "\r\n"
	},
	say:       sayPOP3,
	challenge: func(text string) string { return "+ " + text + "\r\n" },
	response:  (*front).saslLine,
	unknown:   errNotPOP3,
}

var errNotPOP3 = errors.New("the store does not speak POP3")

func sayPOP3(_ string, r reply) string {
	return map[reply]string{
		replyNeedsTLS:  "-ERR TLS is required to log in",
		replyMechanism: "-ERR Unsupported mechanism",
		replyInvalid:   "-ERR Invalid response",
		replyNoTLS:     "-ERR STLS is not available",
		replyBeginTLS:  "+OK Begin TLS",
		replyBehindTLS: "-ERR Data behind STLS",
	}[r] + "\r\n"
}

// pop3Refusal has the codes of RFC 2449 and RFC 3206.
func pop3Refusal(f *front, o outcome) string {
	switch o {
	case outcomeDenied:
		return "-ERR [AUTH] Authentication failed\r\n"
	case outcomeHeld:
		return "-ERR [SYS/TEMP] The mailbox is being moved, please try again\r\n"
	case outcomeInUse:
		return "-ERR [IN-USE] The mailbox is in use\r\n"
	case outcomeTooMany:
		return "-ERR [SYS/TEMP] Too many sessions of this user\r\n"
	case outcomePassword:
		return "-ERR [SYS/PERM] This mailbox needs a login with a password\r\n"
	case outcomeNoService:
		return "-ERR [SYS/TEMP] POP3 is not available for this mailbox now\r\n"
	}
	return "-ERR [SYS/TEMP] Temporary failure, please try again (" + f.id + ")\r\n"
}

// write sends a line before login.
func (f *front) write(s string) error {
	f.c.WriteString(s)
	if f.c.Flush() != nil {
		return errQuit
	}
	return nil
}

// readPOP3 runs the dialogue up to the next PASS or AUTH.
func readPOP3(ctx context.Context, f *front) (credentials, error) {
	for {
		if err := f.awaitCommand(); err != nil {
			return credentials{}, err
		}
		l, err := f.c.ReadLine(line.PreLogin.Line)
		switch {
		case errors.Is(err, line.ErrLineTooLong):
			f.proto.bye(f, "Command line is too long")
			return credentials{}, errQuit
		case errors.Is(err, os.ErrDeadlineExceeded):
			f.proto.bye(f, "Login takes too long")
			return credentials{}, errQuit
		case err != nil:
			return credentials{}, errQuit
		}
		word, args := cutWord(l)
		run := pop3Before[upper(word[:min(len(word), 32)])]
		if run == nil {
			run = func(_ context.Context, f *front, _ string) (credentials, bool, error) {
				return credentials{}, false, f.write("-ERR Unknown command before login\r\n")
			}
		}
		if c, found, err := run(ctx, f, string(args)); found || err != nil {
			return c, err
		}
	}
}

// pop3Before are the commands before login; found is set by those that bring
// credentials.
var pop3Before = map[string]func(ctx context.Context, f *front, args string) (c credentials, found bool, err error){
	"CAPA": func(_ context.Context, f *front, _ string) (credentials, bool, error) {
		return credentials{}, false, f.write("+OK\r\n" + f.pop3Capabilities() + ".\r\n")
	},
	"QUIT": func(_ context.Context, f *front, _ string) (credentials, bool, error) {
		_ = f.write("+OK Logging out\r\n")
		return credentials{}, false, errQuit
	},
	"STLS": func(ctx context.Context, f *front, args string) (credentials, bool, error) {
		if args != "" {
			return credentials{}, false, f.write("-ERR STLS has no arguments\r\n")
		}
		f.name = ""
		return credentials{}, false, f.startTLS(ctx, "")
	},
	"APOP": func(_ context.Context, f *front, _ string) (credentials, bool, error) {
		return credentials{}, false, f.write("-ERR APOP is not supported\r\n")
	},
	"USER": pop3User,
	"PASS": pop3Pass,
	"AUTH": pop3Auth,
}

// pop3Capabilities are what both states honour: every store has TOP and UIDL.
func (f *front) pop3Capabilities() string {
	caps := "TOP\r\nUIDL\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\nPIPELINING\r\n"
	if f.offersTLS() {
		caps += "STLS\r\n"
	}
	if f.mayLogin() {
		caps += "USER\r\nSASL " + strings.Join(f.mechanisms(), " ") + "\r\n"
	}
	return caps + "IMPLEMENTATION mailferry\r\n"
}

// pop3User says yes to every name: who exists is nobody's business.
func pop3User(_ context.Context, f *front, args string) (credentials, bool, error) {
	switch {
	case !f.mayLogin():
		return credentials{}, false, f.needsTLS("")
	case args == "" || strings.Contains(args, " "):
		return credentials{}, false, f.write("-ERR Invalid user name\r\n")
	}
	f.name = args
	return credentials{}, false, f.write("+OK\r\n")
}

func pop3Pass(_ context.Context, f *front, args string) (credentials, bool, error) {
	switch {
	case !f.mayLogin():
		return credentials{}, false, f.needsTLS("")
	case f.name == "":
		return credentials{}, false, f.write("-ERR No user name was given\r\n")
	}
	c := credentials{user: f.name, password: backend.Secret(args)}
	f.name = ""
	return c, true, nil
}

// pop3Auth reads AUTH, with and without an initial response; alone it asks for
// the mechanisms, as clients did before CAPA.
func pop3Auth(_ context.Context, f *front, args string) (credentials, bool, error) {
	if args == "" {
		list := "+OK\r\n"
		if f.mayLogin() {
			list += strings.Join(f.mechanisms(), "\r\n") + "\r\n"
		}
		return credentials{}, false, f.write(list + ".\r\n")
	}
	mechanism, response, has := strings.Cut(args, " ")
	var initial []byte
	if has {
		initial = []byte(response)
	}
	return f.sasl("", mechanism, initial)
}

// pop3Dialect is POP3 after login. Its commands are a closed list, because of
// an unknown one nobody can tell how long its answer is.
var pop3Dialect = dialect{stays: true, bad: errNotPOP3, max: 2 << 10, command: pop3Command, reply: pop3Reply}

// pop3Multi says of each command whether its success has a body: always (+),
// never (-), or only without an argument (?).
var pop3Multi = map[string]byte{"STAT": '-', "LIST": '?', "RETR": '+', "DELE": '-', "NOOP": '-', "RSET": '-', "QUIT": '-',
	"TOP": '+', "UIDL": '?', "CAPA": '+', "LAST": '-', "LANG": '?', "UTF8": '-'}

func pop3Command(l []byte) (lineCommand, string) {
	word, args := cutWord(l)
	verb := upper(word[:min(len(word), 32)])
	multi, known := pop3Multi[verb]
	c := lineCommand{verb: verb, quits: verb == "QUIT"}
	switch {
	case !plainLine(l):
		return c, "-ERR Invalid character\r\n"
	case verb == "USER" || verb == "PASS" || verb == "AUTH" || verb == "APOP" || verb == "STLS":
		return c, "-ERR Already logged in\r\n"
	case !known:
		return c, "-ERR Unknown command\r\n"
	}
	c.multi = multi == '+' || multi == '?' && len(bytes.TrimSpace(args)) == 0
	return c, ""
}

func pop3Reply(l []byte, c *lineCommand) lineReply {
	switch {
	case hasWord(l, "+OK"):
		if c != nil && c.multi {
			return replyBody
		}
		return replyLast
	case !hasWord(l, "-ERR"):
		return replyGarbage
	case c == nil:
		return replyBye // a timeout: POP3 says nothing else unasked
	}
	return replyLast
}
