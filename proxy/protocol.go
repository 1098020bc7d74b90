package proxy

import (
	"context"

	"mailferry/backend"
)

// protocol is all that one mail access protocol has of its own. The life of a
// session is written once, around it.
type protocol struct {
	name backend.Protocol
	alpn string
	// greet says the first word.
	greet func(f *front) error
	// read runs the dialogue up to the next credentials. errQuit: the client is
	// gone or was sent away; the connection ends.
	read func(ctx context.Context, f *front) (credentials, error)
	// refuse answers credentials that did not do.
	refuse func(f *front, c credentials, o outcome) error
	// welcome answers credentials that did.
	welcome func(f *front, c credentials, s *session) error
	// bye ends the connection before login with a reason.
	bye func(f *front, text string)

	// follow begins to follow a session that has logged in at r with b; target
	// is the other store of a move that runs, or empty.
	follow func(f *front, r backend.Route, target string, b BackendConn) framing
	// goodbye are the last words to a client that is logged in.
	goodbye func(code, text string) string
	// say is the line that gives a reply; tag is empty where there are none.
	say func(tag string, r reply) string
	// challenge is the line that asks for the next SASL message; text is base64
	// or empty. response reads what the client answers.
	challenge func(text string) string
	response  func(f *front) ([]byte, error)
	// secured follows a STARTTLS handshake; nil: nothing is said.
	secured func(f *front) error
	// unknown is what is said of a store that does not speak the protocol.
	unknown error
}

// reply is what the dialogue before login may have to say in any protocol. The
// list is closed.
type reply uint8

const (
	replyNeedsTLS  reply = iota + 1 // credentials without TLS
	replyMechanism                  // an unknown SASL mechanism
	replyInvalid                    // a SASL message that is none
	replyNoTLS                      // STARTTLS where there is none
	replyBeginTLS                   // begin the handshake
	replyBehindTLS                  // octets in clear behind STARTTLS
)

// credentials are what a client has shown.
type credentials struct {
	tag      string
	user     string
	password backend.Secret
	// token: password is an OAuth token, which only a store can check, shown by
	// this mechanism. proven: a certificate has shown who it is; no password.
	token  string
	proven bool
}

// outcome is why a login did not happen. The list is closed: each protocol maps
// it to its own codes.
type outcome uint8

const (
	outcomeDenied      outcome = iota + 1 // unknown user, wrong password, disabled: told alike
	outcomeUnavailable                    // nobody can tell, or the store is away: come back later
	outcomeHeld                           // the user's hold took too long
	outcomeInUse                          // another session has the mailbox for itself (POP3)
	outcomeNoService                      // the user's store does not serve the protocol
	outcomeTooMany                        // the user has sessions enough
	outcomePassword                       // proven, but the store wants the user's own password
)
