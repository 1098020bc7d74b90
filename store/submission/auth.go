package submission

import (
	"net"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"mailferry/backend"
)

// maxFailures is how many wrong passwords a connection may try.
const maxFailures = 5

var errTLSRequired = &smtp.SMTPError{Code: 523, EnhancedCode: smtp.EnhancedCode{5, 7, 10}, Message: "TLS is required"}

// mayLogin reports whether a password may be sent on this connection.
func (s *session) mayLogin() bool {
	if _, secure := s.conn.TLSConnectionState(); secure {
		return true
	}
	switch s.server.options.Cleartext {
	case CleartextAlways:
		return true
	case CleartextLoopback:
		addr, ok := s.conn.Conn().RemoteAddr().(*net.TCPAddr)
		return ok && addr.IP.IsLoopback()
	default:
		return false
	}
}

// AuthMechanisms implements smtp.AuthSession.
func (s *session) AuthMechanisms() []string {
	if !s.mayLogin() {
		return nil
	}
	return []string{sasl.Plain, sasl.Login}
}

// Auth implements smtp.AuthSession.
func (s *session) Auth(mech string) (sasl.Server, error) {
	if !s.mayLogin() {
		return nil, errTLSRequired
	}
	switch mech {
	case sasl.Plain:
		return sasl.NewPlainServer(func(identity, name, password string) error {
			if identity != "" && identity != name {
				return s.refuse(backend.NewError(backend.KindAuthentication, ""))
			}
			return s.login(name, password)
		}), nil
	case sasl.Login:
		return &loginServer{login: s.login}, nil
	default:
		return nil, smtp.ErrAuthUnknownMechanism
	}
}

func (s *session) login(name, password string) error {
	user, err := s.server.options.Users.Authenticate(s.ctx, name, backend.Secret(password))
	if err != nil {
		return s.refuse(err)
	}
	s.user = user
	return nil
}

// refuse turns an error of a login into its reply (RFC 4954 6); a trouble of
// ours is never told as a wrong password.
func (s *session) refuse(err error) error {
	switch backend.KindOf(err) {
	case backend.KindAuthentication, backend.KindNotFound, backend.KindPermission, backend.KindInvalid:
		s.server.log.Info("login failed", "peer", s.conn.Conn().RemoteAddr())
		if s.failures++; s.failures >= maxFailures {
			s.conn.Conn().Close()
		}
		return smtp.ErrAuthFailed
	default:
		s.server.log.Warn("login not possible", "error", err)
		return &smtp.SMTPError{Code: 454, EnhancedCode: smtp.EnhancedCode{4, 7, 0}, Message: "temporary authentication failure"}
	}
}

// loginServer is the LOGIN mechanism, which old clients want: a name and a
// password in two answers (draft-murchison-sasl-login).
type loginServer struct {
	login  func(name, password string) error
	name   string
	asked  bool
	named  bool
	closed bool
}

// Next implements sasl.Server.
func (l *loginServer) Next(response []byte) (challenge []byte, done bool, err error) {
	switch {
	case l.closed:
		return nil, false, sasl.ErrUnexpectedClientResponse
	case !l.asked && response == nil:
		l.asked = true
		return []byte("Username:"), false, nil
	case !l.named:
		l.asked, l.named, l.name = true, true, string(response)
		return []byte("Password:"), false, nil
	default:
		l.closed = true
		return nil, true, l.login(l.name, string(response))
	}
}
