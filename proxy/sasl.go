package proxy

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strings"

	"mailferry/backend"
	"mailferry/internal/line"
)

// saslNext asks the client for a message of a SASL exchange; challenge is
// base64. The first question is not asked when the client has sent an initial
// response.
type saslNext func(challenge string) ([]byte, error)

// saslMechanisms are the mechanisms, each a dialogue that ends in credentials.
var saslMechanisms = map[string]func(f *front, next saslNext) (credentials, error){
	"PLAIN":         saslPlain,
	"LOGIN":         saslLogin,
	mechOAuthBearer: saslOAuthBearer,
	mechXOAUTH2:     saslXOAUTH2,
	mechExternal:    saslExternal,
}

var passwordMechanisms = []string{"PLAIN", "LOGIN"}

// mechanisms are the SASL mechanisms that this connection is offered.
func (f *front) mechanisms() []string {
	list := passwordMechanisms
	if f.p.o.Tokens.Offer {
		list = append(slices.Clip(list), mechOAuthBearer, mechXOAUTH2)
	}
	if f.certified() != "" {
		list = append(slices.Clip(list), mechExternal)
	}
	return list
}

// sasl runs an authentication to its credentials; initial is the client's
// initial response in base64, nil without one. When nothing is found the
// client has its answer already.
func (f *front) sasl(tag, mechanism string, initial []byte) (c credentials, found bool, err error) {
	if !f.mayLogin() {
		return c, false, f.needsTLS(tag)
	}
	mechanism = strings.ToUpper(mechanism)
	if !slices.Contains(f.mechanisms(), mechanism) {
		return c, false, f.say(tag, replyMechanism)
	}
	c, err = saslMechanisms[mechanism](f, func(challenge string) ([]byte, error) {
		l := initial
		if initial = nil; l == nil {
			f.c.WriteString(f.proto.challenge(challenge))
			if f.c.Flush() != nil {
				return nil, errQuit
			}
			var err error
			if l, err = f.proto.response(f); err != nil {
				return nil, err
			}
		}
		return line.DecodeSASL(l)
	})
	switch {
	case errors.Is(err, line.ErrSASL), errors.Is(err, line.ErrSASLCancelled):
		return c, false, f.say(tag, replyInvalid)
	case err != nil:
		return c, false, err
	}
	c.tag = tag
	return c, true, nil
}

// saslLine reads a response that is a line of its own.
func (f *front) saslLine() ([]byte, error) {
	l, err := f.c.ReadLine(line.PreLogin.Line)
	switch {
	case errors.Is(err, line.ErrLineTooLong):
		f.proto.bye(f, "Response is too long")
	case errors.Is(err, os.ErrDeadlineExceeded):
		f.proto.bye(f, "Disconnected for inactivity")
	}
	if err != nil {
		return nil, errQuit
	}
	return bytes.Clone(l), nil
}

// saslPlain is RFC 4616. Acting for somebody else is not offered: such a name
// is made one that nobody has.
func saslPlain(_ *front, next saslNext) (credentials, error) {
	msg, err := next("")
	if err != nil {
		return credentials{}, err
	}
	parts := strings.Split(string(msg), "\x00")
	if len(parts) != 3 || parts[1] == "" {
		return credentials{}, line.ErrSASL
	}
	c := credentials{user: parts[1], password: backend.Secret(parts[2])}
	if parts[0] != "" && parts[0] != parts[1] {
		c.user = ""
	}
	return c, nil
}

// saslLogin is the LOGIN mechanism: name and password, each asked for.
func saslLogin(_ *front, next saslNext) (credentials, error) {
	user, err := next(line.LoginChallenges[0])
	if err != nil {
		return credentials{}, err
	}
	password, err := next(line.LoginChallenges[1])
	return credentials{user: string(user), password: backend.Secret(password)}, err
}

// say sends one of the replies that all protocols have.
func (f *front) say(tag string, r reply) error {
	f.c.WriteString(f.proto.say(tag, r))
	if f.c.Flush() != nil {
		return errQuit
	}
	return nil
}

func (f *front) needsTLS(tag string) error {
	f.p.metrics.logins.WithLabelValues("cleartext").Inc()
	return f.say(tag, replyNeedsTLS)
}

// startTLS switches to TLS. Octets that came in clear behind the command end
// the connection: they may be anybody's.
func (f *front) startTLS(ctx context.Context, tag string) error {
	if !f.offersTLS() {
		return f.say(tag, replyNoTLS)
	}
	ctx, cancel := context.WithTimeout(ctx, f.p.o.HandshakeLimit)
	defer cancel()
	err := f.c.StartTLSServer(ctx, f.p.tlsFor(f.proto), f.proto.say(tag, replyBeginTLS))
	if errors.Is(err, line.ErrEarlyData) {
		_ = f.say(tag, replyBehindTLS)
		f.proto.bye(f, "Protocol error")
	}
	if err != nil {
		f.log.Debug("TLS handshake failed", "error", err)
		return errQuit
	}
	if f.proto.secured != nil {
		return f.proto.secured(f)
	}
	return nil
}
