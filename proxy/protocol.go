package proxy

import (
	"context"

	"mailferry/backend"
)

// protocol is all that one mail access protocol has of its own before the
// relay begins. The life of a session is written once, around it.
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
	// welcome answers credentials that did; caps are what the session may use.
	welcome func(f *front, c credentials, pol *policy) error
	// bye ends the connection with a reason.
	bye func(f *front, text string)
}

// credentials are what a client has shown.
type credentials struct {
	tag      string
	user     string
	password backend.Secret
}

// outcome is why a login did not happen. The list is closed: each protocol maps
// it to its own codes.
type outcome uint8

const (
	outcomeDenied      outcome = iota + 1 // unknown user, wrong password, disabled: told alike
	outcomeUnavailable                    // nobody can tell, or the store is away: come back later
	outcomeHeld                           // the user's hold took too long
)
