package imapd

import (
	"context"
	"errors"
	"strings"

	"mailferry/backend"
	"mailferry/internal/line"
)

func (s *session) mayResume() bool { return s.delegated || s.info.Trusted }

func runCapability(_ context.Context, s *session, c *call) error {
	if !c.d.ExpectEnd() {
		return c.d.Err()
	}
	s.enc.Text("* CAPABILITY ").Text(strings.Join(s.capabilities(), " ")).CRLF()
	return nil
}

func runNoop(_ context.Context, _ *session, c *call) error {
	c.d.ExpectEnd()
	return c.d.Err()
}

func runLogout(_ context.Context, s *session, c *call) error {
	if !c.d.ExpectEnd() {
		return c.d.Err()
	}
	s.unselect()
	s.bye("", "Logging out")
	return nil
}

// runID: RFC 2971. The client's fields go to the log at debug level.
func runID(_ context.Context, s *session, c *call) error {
	var fields []string
	value := func() bool {
		var v string
		var set bool
		if len(fields) >= 60 || !c.d.ExpectNString(&v, &set) {
			return false
		}
		fields = append(fields, v)
		return true
	}
	if !c.d.ExpectSP() || !c.d.Word("NIL") && !c.d.ExpectList(value) || !c.d.ExpectEnd() {
		return c.d.Err()
	}
	s.log.Debug("client's ID", "fields", fields)
	s.enc.Text(`* ID ("name" "mailferry")`).CRLF()
	return nil
}

func runStartTLS(ctx context.Context, s *session, c *call) error {
	if !c.d.ExpectEnd() {
		return c.d.Err()
	}
	if !s.conn.MayStartTLS() {
		return bad("STARTTLS is not possible now")
	}
	err := s.conn.StartTLS(ctx, s.server.o.Limits.Command, c.tag+" OK Begin TLS negotiation now\r\n")
	if errors.Is(err, line.ErrEarlyData) {
		s.bye("", "Octets in clear behind STARTTLS")
		return bad("Octets in clear behind STARTTLS")
	}
	if err != nil {
		s.log.Debug("TLS handshake failed", "err", err)
		s.done = true
	}
	return errAnswered
}

// errAnswered: the command has written its tagged response itself.
var errAnswered = errors.New("imapd: answered")

func runLogin(ctx context.Context, s *session, c *call) error {
	var name, password string
	if !c.d.ExpectSP() || !c.d.ExpectAString(&name) || !c.d.ExpectSP() || !c.d.ExpectAString(&password) || !c.d.ExpectEnd() {
		return c.d.Err()
	}
	if !s.conn.MayLogin() {
		return no("PRIVACYREQUIRED", "Use STARTTLS first")
	}
	if !line.ValidCredential(name) || !line.ValidSecret(password) {
		return s.loginFailed(backend.NewError(backend.KindAuthentication, "Invalid credentials"))
	}
	return s.login(ctx, line.Plain{Name: name, Password: password})
}

func runAuthenticate(ctx context.Context, s *session, c *call) error {
	var mechanism string
	if !c.d.ExpectSP() || !c.d.Keyword(&mechanism) {
		c.d.Fail("Mechanism expected")
		return c.d.Err()
	}
	var initial []byte
	if c.d.SP() {
		initial = []byte(c.d.TakeRest())
	} else if !c.d.ExpectEnd() {
		return c.d.Err()
	}
	if !s.conn.MayLogin() {
		return no("PRIVACYREQUIRED", "Use STARTTLS first")
	}
	var p line.Plain
	var err error
	switch mechanism {
	case "PLAIN":
		p, err = s.readPlain(initial)
	case "LOGIN":
		p, err = s.readLogin(initial)
	default:
		return no("CANNOT", "Unknown mechanism")
	}
	switch {
	case errors.Is(err, line.ErrSASLCancelled):
		return bad("Authentication cancelled")
	case errors.Is(err, line.ErrSASL):
		s.loginErrors++
		return s.loginLimit(bad("Invalid response"))
	case err != nil:
		s.done = true
		return bad("No response")
	}
	return s.login(ctx, p)
}

// challenge asks and reads one response; an initial one is taken in its place.
func (s *session) challenge(text string, initial []byte) ([]byte, error) {
	if initial != nil {
		return line.DecodeSASL(initial)
	}
	s.enc.Text("+ ").Text(text).CRLF()
	if err := s.conn.Flush(); err != nil {
		return nil, err
	}
	l, err := s.conn.ReadLine(line.PreLogin.Line)
	if err != nil {
		return nil, err
	}
	return line.DecodeSASL(l)
}

func (s *session) readPlain(initial []byte) (line.Plain, error) {
	msg, err := s.challenge("", initial)
	if err != nil {
		return line.Plain{}, err
	}
	return line.ParsePlain(msg)
}

func (s *session) readLogin(initial []byte) (line.Plain, error) {
	name, err := s.challenge(line.LoginChallenges[0], initial)
	if err != nil {
		return line.Plain{}, err
	}
	password, err := s.challenge(line.LoginChallenges[1], nil)
	if err != nil {
		return line.Plain{}, err
	}
	p := line.Plain{Name: string(name), Password: string(password)}
	if p.Name == "" || !line.ValidCredential(p.Name) || !line.ValidSecret(p.Password) {
		return p, line.ErrSASL
	}
	return p, nil
}

// login checks credentials and opens the account.
func (s *session) login(ctx context.Context, p line.Plain) error {
	user, delegated, err := s.conn.Authenticate(ctx, p)
	if err != nil {
		return s.loginFailed(err)
	}
	account, err := s.server.o.Store.Account(ctx, user)
	if err != nil {
		return s.loginFailed(err)
	}
	s.account, s.delegated, s.state = account, delegated, stateAuthenticated
	s.loginErrors = 0
	s.d.SetLimits(line.Session)
	s.log = s.log.With("user", account.User().Name)
	s.log.Info("login", "delegated", delegated)
	return okay("CAPABILITY "+strings.Join(s.capabilities(), " "), "Logged in")
}

// loginFailed answers without telling a wrong name from a wrong password; what
// is temporary is told as temporary.
func (s *session) loginFailed(err error) error {
	switch backend.KindOf(err) {
	case backend.KindUnavailable, backend.KindTemporary:
		s.log.Warn("login is not possible now", "err", err)
		return no("UNAVAILABLE", backend.UserText(err))
	case backend.KindAuthentication, backend.KindNotFound, backend.KindPermission, backend.KindInvalid:
		s.log.Info("login failed", "err", err)
		s.loginErrors++
		return s.loginLimit(no("AUTHENTICATIONFAILED", "Authentication failed"))
	}
	return err
}

// loginLimit ends the connection after too many failures.
func (s *session) loginLimit(err error) error {
	if s.loginErrors >= s.server.o.Limits.LoginErrors {
		s.bye("", "Too many failed logins")
	}
	return err
}

// runEnable: RFC 5161.
func runEnable(ctx context.Context, s *session, c *call) error {
	var names []string
	for c.d.SP() {
		var n string
		if !c.d.Keyword(&n) {
			break
		}
		names = append(names, n)
	}
	if len(names) == 0 {
		c.d.Fail("Capability expected")
	}
	if !c.d.ExpectEnd() {
		return c.d.Err()
	}
	s.enc.Text("* ENABLED")
	before := s.condstore
	for _, n := range names {
		if s.enable(n) {
			s.enc.SP().Text(n)
		}
	}
	s.enc.CRLF()
	if s.condstore && !before {
		s.writeHighest()
	}
	return nil
}

// useCondstore is for each command that enables CONDSTORE in passing. Between
// the responses of a command it may write one of its own.
func (s *session) useCondstore() {
	if !s.condstore {
		s.condstore = true
		s.writeHighest()
	}
}

// writeHighest tells a client that begins with modseqs in a selected mailbox
// where it is (RFC 7162 section 3.1).
func (s *session) writeHighest() {
	if s.view != nil {
		s.enc.Text("* OK [HIGHESTMODSEQ ").Number(s.view.modseq).Text("] Highest").CRLF()
	}
}

// enable switches a feature on; false when there is none of that name.
func (s *session) enable(name string) bool {
	if s.withheld(name) {
		return false
	}
	switch name {
	case "CONDSTORE":
		s.condstore = true
	case "QRESYNC":
		s.condstore, s.qresync = true, true
	default:
		return false
	}
	return true
}
