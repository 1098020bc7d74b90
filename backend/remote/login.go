package remote

import (
	"context"
	"fmt"
	"strings"

	"mailferry/backend"
)

// identity is who logs in for whom, after the store's login mode.
type identity struct {
	authzid, user string
	secret        backend.Secret
	sasl          bool   // only SASL can say it
	token         bool   // secret is an OAuth token
	proxyAuth     string // whom to become by PROXYAUTH behind the login
}

func (t *Target) identity(ctx context.Context, p backend.Protocol) (identity, error) {
	l := t.Store.Login
	id := identity{user: t.User, secret: t.Password, token: t.Token}
	switch mode := l.Mode; {
	case mode == backend.LoginAuthzid:
		id = identity{authzid: t.User, user: l.User, secret: l.Secret, sasl: true}
	case mode == backend.LoginMaster:
		sep := l.Separator
		if sep == "" {
			sep = "*"
		}
		if strings.Contains(t.User, sep) {
			return id, backend.Errorf(backend.KindInvalid, "This user name cannot log in here.",
				"user name contains the master user separator %q", sep)
		}
		id = identity{user: t.User + sep + l.User, secret: l.Secret}
	case mode == backend.LoginProxyAuth && p == backend.IMAP:
		id = identity{user: l.User, secret: l.Secret, proxyAuth: t.User}
	case mode == backend.LoginOAuth:
		if err := t.fetchToken(ctx, &id); err != nil {
			return id, err
		}
	case mode == backend.LoginUser, mode == backend.LoginProxyAuth, mode == "":
	default:
		return id, backend.Errorf(backend.KindBug, "", "login mode %q", l.Mode)
	}
	id.sasl = id.sasl || id.token
	// Controls have no business in names and would end a line or a field.
	if t.User == "" || control(t.User) || control(id.authzid) || control(id.user) || control(id.secret.Reveal()) {
		return id, backend.NewError(backend.KindAuthentication, "This name or password cannot be used.")
	}
	return id, nil
}

func control(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f })
}

// authenticate logs in: by SASL where the store offers the mechanism, by LOGIN
// otherwise.
func (c *IMAPConn) authenticate(ctx context.Context) error {
	id, err := c.target.identity(ctx, backend.IMAP)
	if err != nil {
		return err
	}
	c.announced = false // capabilities change with login
	c.link.setTimeout(loginFactor * c.target.timeout())
	defer c.link.setTimeout(c.target.timeout())
	mechanism, offered := id.mechanism(func(m string) bool { return c.Has("AUTH=" + m) })
	var r response
	way := "LOGIN"
	switch {
	case offered:
		way = mechanism
		r, err = c.sasl(id, mechanism)
	case id.sasl:
		return noMechanism(mechanism)
	case c.Has("LOGINDISABLED"):
		return fmt.Errorf("the store refuses LOGIN on this connection")
	default:
		r, err = c.loginCommand(id)
	}
	if err == nil && r.name == "OK" && id.proxyAuth != "" {
		r, err = c.proxyAuth(id.proxyAuth)
	}
	if err = c.loggedIn(ctx, way, r, err); err != nil {
		return err
	}
	if r.name == "OK" {
		return nil // a referral may come with it: the mailbox is served here all the same (RFC 2221, 4.1)
	}
	r.text = id.masked(r.text)
	err = c.loginRefused(r)
	c.target.tokenRefused(id, err)
	return err
}

// proxyAuth becomes another user (Netscape's and Sun's command).
func (c *IMAPConn) proxyAuth(user string) (response, error) {
	c.announced = false
	if quotable(user) {
		return c.command("PROXYAUTH " + quote(user))
	}
	tag := c.nextTag()
	if err := c.send(fmt.Sprintf("%s PROXYAUTH {%d}\r\n", tag, len(user))); err != nil {
		return response{}, err
	}
	return c.await(tag, func() error { return c.send(user + "\r\n") })
}

// sasl is AUTHENTICATE, in one round trip where SASL-IR (RFC 4959) is offered.
func (c *IMAPConn) sasl(id identity, mechanism string) (response, error) {
	msg, afterwards := id.message(mechanism)
	tag, sent := c.nextTag(), false
	line := tag + " AUTHENTICATE " + mechanism
	if c.Has("SASL-IR") {
		line, sent = line+" "+msg, true
	}
	line += "\r\n"
	if sent && mechanism == mechPlain { // the others may be challenged
		line = c.queue(mechanism, line, id)
	}
	if err := c.send(line); err != nil {
		return response{}, err
	}
	return c.await(tag, func() error {
		if sent {
			return c.send(afterwards + "\r\n")
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
	if len(parts) == 1 {
		parts[0] = c.queue("LOGIN", parts[0], id)
	}
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
		return c.target.unavailable(backend.IMAP, stepLogin, err)
	}
	if host := referralHost(r.code + " " + r.arg); host != "" {
		return &Referral{Host: host, err: c.target.unavailable(backend.IMAP, stepLogin, err)}
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
