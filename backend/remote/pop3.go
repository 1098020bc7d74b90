package remote

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"mailferry/backend"
)

// maxCommand bounds a command line of POP3 (RFC 2449, 4).
const maxCommand = 255

// DialPOP3 connects, protects the connection as the store's TLS mode says, and
// logs in as its login mode says: by USER and PASS, which every store has, and
// by AUTH PLAIN where these cannot say it. Errors are those of DialIMAP, and KindConflict: another
// session has the mailbox for itself.
func DialPOP3(ctx context.Context, t Target) (*TextConn, error) {
	return dialText(ctx, t, backend.POP3, func(c *TextConn) []step {
		return []step{{"greeting", c.popGreeting}, {"STLS", c.popTLS}, {"XCLIENT", c.popOrigin}, {"UTF8", c.popRaw}, {stepLogin, c.popLogin}}
	})
}

func (c *TextConn) popGreeting(context.Context) error {
	_, err := c.popReply()
	return err
}

// popReply reads a status line; -ERR is an error.
func (c *TextConn) popReply() (text string, err error) {
	l, err := c.line()
	if err != nil {
		return "", err
	}
	word, rest, _ := strings.Cut(l, " ")
	switch word {
	case "+OK":
		return rest, nil
	case "-ERR":
		return rest, &popError{rest}
	case "+":
		return rest, errChallenge
	}
	return "", fmt.Errorf("reply %.80q", l)
}

// popError is a reply -ERR.
type popError struct{ text string }

func (e *popError) Error() string { return "-ERR " + e.text }

// code is the response code (RFC 2449, 8), upper case.
func (e *popError) code() string {
	if !strings.HasPrefix(e.text, "[") {
		return ""
	}
	code, _, _ := strings.Cut(e.text[1:], "]")
	code, _, _ = strings.Cut(code, " ")
	return strings.ToUpper(code)
}

// arg is what follows the response code within the brackets.
func (e *popError) arg() string {
	code, _, _ := strings.Cut(strings.TrimPrefix(e.text, "["), "]")
	_, arg, _ := strings.Cut(code, " ")
	return arg
}

var errChallenge = fmt.Errorf("a challenge")

func (c *TextConn) popCommand(line string) (string, error) {
	if err := c.send(line); err != nil {
		return "", err
	}
	return c.popReply()
}

// popCapabilities asks for the capabilities; a store that does not know the
// command has none.
func (c *TextConn) popCapabilities(context.Context) error {
	c.caps = nil
	_, err := c.popCommand("CAPA")
	if _, refused := err.(*popError); refused {
		return nil
	}
	for err == nil {
		var l string
		if l, err = c.line(); err == nil && l == "." {
			return nil
		}
		if len(c.caps) == maxLines {
			return fmt.Errorf("more than %d capabilities", maxLines)
		}
		c.caps = append(c.caps, strings.ToUpper(l))
	}
	return err
}

// popTLS runs STLS when the mode asks for it, the default.
func (c *TextConn) popTLS(ctx context.Context) error {
	if !c.plaintext() {
		return nil
	}
	if _, err := c.popCommand("STLS"); err != nil {
		return err
	}
	return c.startTLS(ctx)
}

// popRaw asks for messages as they are, where that makes a difference: Dovecot
// and Cyrus give no others.
func (c *TextConn) popRaw(ctx context.Context) error {
	if t := c.target.Store.Type; !c.target.Raw || t == backend.StoreDovecot || t == backend.StoreCyrus {
		return nil
	}
	if err := c.popCapabilities(ctx); err != nil {
		return err
	}
	if !slices.ContainsFunc(c.caps, func(l string) bool { return l == "UTF8" || strings.HasPrefix(l, "UTF8 ") }) {
		return nil
	}
	_, err := c.popCommand("UTF8")
	if _, refused := err.(*popError); refused {
		return nil
	}
	return err
}

func (c *TextConn) popLogin(ctx context.Context) error {
	id, err := c.target.identity(ctx, backend.POP3)
	if err != nil {
		return err
	}
	defer c.patience()()
	if id.sasl || strings.Contains(id.user, " ") { // PASS takes anything, USER one word
		err = c.popSASL(ctx, id)
	} else {
		err = c.popUser(id)
	}
	if refused, ok := err.(*popError); ok {
		err = c.loginRefused(refused.code(), refused.arg(), id.masked(refused.Error()))
		c.target.tokenRefused(id, err)
	}
	return err
}

// popSASL is AUTH, in one round trip where the line is short enough (RFC 5034).
func (c *TextConn) popSASL(ctx context.Context, id identity) error {
	if err := c.popCapabilities(ctx); err != nil {
		return err
	}
	mechanism, offered := id.mechanism(func(m string) bool {
		return slices.ContainsFunc(c.caps, func(l string) bool {
			f := strings.Fields(l)
			return len(f) > 1 && f[0] == "SASL" && slices.Contains(f[1:], m)
		})
	})
	if !offered {
		return noMechanism(mechanism)
	}
	msg, afterwards := id.message(mechanism)
	var err error
	if first := "AUTH " + mechanism + " " + msg; len(first)+2 <= maxCommand {
		_, err = c.popCommand(first)
	} else {
		switch _, err := c.popCommand("AUTH " + mechanism); {
		case err == nil:
			return fmt.Errorf("AUTH %s ended before the credentials were sent", mechanism)
		case err != errChallenge:
			return err
		}
		_, err = c.popCommand(msg)
	}
	if err == errChallenge {
		_, err = c.popCommand(afterwards)
	}
	return err
}

// popUser is USER and PASS.
func (c *TextConn) popUser(id identity) error {
	if _, err := c.popCommand("USER " + id.user); err != nil {
		return err
	}
	_, err := c.popCommand("PASS " + id.secret.Reveal())
	return err
}
