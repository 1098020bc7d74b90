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
		return []step{{"greeting", c.popGreeting}, {"STLS", c.popTLS}, {"XCLIENT", c.popOrigin}, {"login", c.popLogin}}
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
	return strings.ToUpper(code)
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

func (c *TextConn) popLogin(ctx context.Context) error {
	id, err := c.target.identity()
	if err != nil {
		return err
	}
	defer c.patience()()
	if id.sasl || strings.Contains(id.user, " ") { // PASS takes anything, USER one word
		err = c.popPlain(ctx, id)
	} else {
		err = c.popUser(id)
	}
	if refused, ok := err.(*popError); ok {
		return c.loginRefused(refused.code(), refused.Error())
	}
	return err
}

// popPlain is AUTH PLAIN, in one round trip where the line is short enough
// (RFC 5034).
func (c *TextConn) popPlain(ctx context.Context, id identity) error {
	if err := c.popCapabilities(ctx); err != nil {
		return err
	}
	if !slices.ContainsFunc(c.caps, func(l string) bool {
		f := strings.Fields(l)
		return len(f) > 1 && f[0] == "SASL" && slices.Contains(f[1:], "PLAIN")
	}) {
		return fmt.Errorf("the store does not offer SASL PLAIN, which this login needs")
	}
	msg := id.plain()
	if first := "AUTH PLAIN " + msg; len(first)+2 <= maxCommand {
		_, err := c.popCommand(first)
		return err
	}
	switch _, err := c.popCommand("AUTH PLAIN"); {
	case err == nil:
		return fmt.Errorf("AUTH PLAIN ended before the credentials were sent")
	case err != errChallenge:
		return err
	}
	_, err := c.popCommand(msg)
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
