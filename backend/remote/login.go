package remote

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"

	"mailferry/backend"
)

// identity is who logs in for whom, after the store's login mode.
type identity struct {
	authzid, user string
	secret        backend.Secret
	sasl          bool // only SASL can say it
}

func (t *Target) identity() (identity, error) {
	l := t.Store.Login
	id := identity{user: t.User, secret: t.Password}
	switch l.Mode {
	case backend.LoginAuthzid:
		id = identity{authzid: t.User, user: l.User, secret: l.Secret, sasl: true}
	case backend.LoginMaster:
		sep := l.Separator
		if sep == "" {
			sep = "*"
		}
		if strings.Contains(t.User, sep) {
			return id, backend.Errorf(backend.KindInvalid, "This user name cannot log in here.",
				"user name contains the master user separator %q", sep)
		}
		id = identity{user: t.User + sep + l.User, secret: l.Secret}
	case backend.LoginUser, "":
	default:
		return id, backend.Errorf(backend.KindBug, "", "login mode %q", l.Mode)
	}
	// Controls have no business in names and would end a line or a field.
	if t.User == "" || control(id.authzid) || control(id.user) || control(id.secret.Reveal()) {
		return id, backend.NewError(backend.KindAuthentication, "This name or password cannot be used.")
	}
	return id, nil
}

func control(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f })
}

// authenticate logs in: SASL PLAIN where the store offers it, LOGIN otherwise.
func (c *IMAPConn) authenticate(context.Context) error {
	id, err := c.target.identity()
	if err != nil {
		return err
	}
	c.announced = false // capabilities change with login
	c.link.setTimeout(loginFactor * c.target.timeout())
	defer c.link.setTimeout(c.target.timeout())
	var r response
	switch {
	case c.Has("AUTH=PLAIN"):
		r, err = c.plain(id)
	case id.sasl:
		return fmt.Errorf("the store does not offer AUTH=PLAIN, which a delegated login needs")
	case c.Has("LOGINDISABLED"):
		return fmt.Errorf("the store refuses LOGIN on this connection")
	default:
		r, err = c.loginCommand(id)
	}
	if err != nil {
		return err
	}
	if r.name == "OK" {
		return nil
	}
	return c.loginRefused(r)
}

// plain is AUTHENTICATE PLAIN (RFC 4616), in one round trip where SASL-IR
// (RFC 4959) is offered.
func (c *IMAPConn) plain(id identity) (response, error) {
	msg := base64.StdEncoding.EncodeToString([]byte(id.authzid + "\x00" + id.user + "\x00" + id.secret.Reveal()))
	tag, sent := c.nextTag(), false
	line := tag + " AUTHENTICATE PLAIN"
	if c.Has("SASL-IR") {
		line, sent = line+" "+msg, true
	}
	if err := c.send(line + "\r\n"); err != nil {
		return response{}, err
	}
	return c.await(tag, func() error {
		if sent { // a second challenge: PLAIN has none, so it is cancelled
			return c.send("*\r\n")
		}
		sent = true
		return c.send(msg + "\r\n")
	})
}

// loginCommand is LOGIN; arguments that no quoted string can hold go as
// literals, each after the store's consent.
func (c *IMAPConn) loginCommand(id identity) (response, error) {
	tag := c.nextTag()
	parts := []string{tag + " LOGIN"}
	for _, arg := range []string{id.user, id.secret.Reveal()} {
		last := len(parts) - 1
		if quotable(arg) {
			parts[last] += " " + quote(arg)
			continue
		}
		parts[last] += fmt.Sprintf(" {%d}\r\n", len(arg))
		parts = append(parts, arg)
	}
	parts[len(parts)-1] += "\r\n"
	if err := c.send(parts[0]); err != nil {
		return response{}, err
	}
	next := 1
	return c.await(tag, func() error {
		if next >= len(parts) {
			return fmt.Errorf("continuation request that nobody asked for")
		}
		next++
		return c.send(parts[next-1])
	})
}

// quotable reports whether s may stand in a quoted string: 7 bit, no controls.
func quotable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r >= 0x7f }) && len(s) < 1000
}

// quote makes a quoted string (RFC 9051 section 9).
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// loginRefused tells a refusal of the credentials from a bad moment (RFC 5530).
func (c *IMAPConn) loginRefused(r response) error {
	err := fmt.Errorf("login of %q at store %s: %s [%s] %s", c.target.User, c.target.Store.Name, r.name, r.code, r.text)
	if r.name == "BAD" {
		return c.target.unavailable(backend.IMAP, "login", err)
	}
	return refused(r, err)
}

// refused maps a response code to a kind. A NO without a code, or with one that
// says nothing of the cause, is a refusal of credentials (RFC 9051 6.2.3); a
// BYE never is.
func refused(r response, err error) error {
	kind, text := backend.KindAuthentication, "Authentication failed."
	switch r.code {
	case "UNAVAILABLE", "INUSE", "LIMIT", "THROTTLED", "SERVERBUG", "CONTACTADMIN", "OVERQUOTA", "CORRUPTION":
		kind, text = backend.KindTemporary, "The mail store asks to try again later."
	default:
		if r.name == "BYE" {
			kind, text = backend.KindUnavailable, "The mail store closed the connection."
		}
	}
	return backend.Errorf(kind, text, "%w", err)
}
