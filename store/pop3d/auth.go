package pop3d

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"mailferry/backend"
	"mailferry/internal/line"
)

var errClear = &failure{codeAuth, "Passwords are not accepted without TLS"}

// runSTLS: RFC 2595 section 4. What was said before, a user's name included, is
// forgotten.
func runSTLS(ctx context.Context, s *session, _ string) error {
	if !s.conn.MayStartTLS() {
		return bad("TLS is not possible now")
	}
	err := s.conn.StartTLS(ctx, s.server.o.Limits.Command, "+OK Begin TLS negotiation\r\n")
	if errors.Is(err, line.ErrEarlyData) {
		s.done = true
		return bad("Octets in clear behind STLS")
	}
	if err != nil {
		s.log.Debug("TLS handshake failed", "err", err)
		s.done = true
	}
	s.name = ""
	return nil
}

// runUser never tells whether there is such a user.
func runUser(_ context.Context, s *session, arg string) error {
	if !s.conn.MayLogin() {
		return errClear
	}
	s.name = strings.TrimSpace(arg)
	if s.name == "" {
		return bad("Name expected")
	}
	s.ok("Password, please")
	return nil
}

// runPass takes the rest of the line, spaces included (RFC 1939 section 7).
func runPass(ctx context.Context, s *session, arg string) error {
	if !s.conn.MayLogin() {
		return errClear
	}
	name := s.name
	s.name = ""
	if name == "" {
		return bad("USER comes first")
	}
	if !line.ValidCredential(name) || !line.ValidSecret(arg) {
		return s.loginFailed(backend.NewError(backend.KindAuthentication, "Invalid credentials"))
	}
	return s.login(ctx, line.Plain{Name: name, Password: arg})
}

// runAuth: RFC 5034, with and without an initial response. Without a mechanism
// it lists those there are, which some old clients ask before they know CAPA.
func runAuth(ctx context.Context, s *session, arg string) error {
	mechanism, initial, hasInitial := strings.Cut(strings.TrimSpace(arg), " ")
	switch {
	case mechanism == "":
		s.ok("Mechanisms follow")
		if s.conn.MayLogin() {
			s.conn.WriteString("PLAIN\r\n")
		}
		s.conn.WriteString(".\r\n")
		return nil
	case !strings.EqualFold(mechanism, "PLAIN"):
		return bad("Unknown mechanism")
	case !s.conn.MayLogin():
		return errClear
	}
	response := []byte(initial)
	if !hasInitial {
		var err error
		if response, err = s.challenge(); err != nil {
			s.done = true
			return bad("No response")
		}
	}
	msg, err := line.DecodeSASL(response)
	if errors.Is(err, line.ErrSASLCancelled) {
		return bad("Authentication cancelled")
	}
	var p line.Plain
	if err == nil {
		p, err = line.ParsePlain(msg)
	}
	if err != nil {
		return s.loginLimit(bad("Invalid response"))
	}
	return s.login(ctx, p)
}

// challenge asks, with no words, and reads one response.
func (s *session) challenge() ([]byte, error) {
	s.conn.WriteString("+ \r\n")
	if err := s.conn.Flush(); err != nil {
		return nil, err
	}
	return s.conn.ReadLine(maxLine)
}

// login checks credentials, locks the maildrop and lists it.
func (s *session) login(ctx context.Context, p line.Plain) error {
	user, delegated, err := s.conn.Authenticate(ctx, p)
	if err != nil {
		return s.loginFailed(err)
	}
	account, err := s.server.o.Store.Account(ctx, user)
	if err != nil {
		return s.loginFailed(err)
	}
	unlock, ok := account.LockMaildrop()
	if !ok {
		s.log.Info("maildrop is in use", "user", user)
		return refuse(codeInUse, "Another POP3 session has the maildrop")
	}
	drop, err := account.Maildrop(ctx)
	if err != nil {
		unlock()
		return s.loginFailed(err)
	}
	s.account, s.unlock, s.drop, s.state = account, unlock, drop, stateTransaction
	s.log = s.log.With("user", account.User().Name)
	s.log.Info("login", "delegated", delegated, "messages", len(drop.Messages))
	s.ok(fmt.Sprintf("Maildrop has %d messages (%d octets)", len(drop.Messages), drop.Size))
	return nil
}

// loginFailed answers without telling a wrong name from a wrong password
// ([AUTH]); what is temporary is told as temporary (RFC 3206).
func (s *session) loginFailed(err error) error {
	switch backend.KindOf(err) {
	case backend.KindUnavailable, backend.KindTemporary:
		s.log.Warn("login is not possible now", "err", err)
		return refuse(codeTemporary, backend.UserText(err))
	case backend.KindAuthentication, backend.KindNotFound, backend.KindPermission, backend.KindInvalid:
		s.log.Info("login failed", "err", err)
		return s.loginLimit(refuse(codeAuth, "Authentication failed"))
	}
	return err
}

// loginLimit ends the connection after too many failures.
func (s *session) loginLimit(err error) error {
	if s.loginErrors++; s.loginErrors >= s.server.o.Limits.LoginErrors {
		s.done = true
	}
	return err
}
