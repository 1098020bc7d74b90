// Package proxy is the front: it ends TLS, reads a client's credentials, finds
// out who the user is and where their mail lives, logs in there on their
// behalf and then carries octets, always knowing whether the session is
// between commands. That knowledge lets it carry a live session over to
// another store.
//
// The life of a session, file by file:
//
//	accept.go    listeners, limits, TLS; proxyproto.go: who the client is
//	protocol.go  what a protocol has of its own; imap.go, pop3.go, managesieve.go are such tables
//	sasl.go      authentication and STARTTLS, as all protocols do them
//	guard.go     who has to wait, or is one too many
//	login.go     directory, placement, hold, password, backend connection
//	relay.go     two goroutines that carry octets through the framing
//	framing.go   what is known of the session: pure, no I/O, no clock;
//	             tracker*.go for IMAP, lines.go for protocols of command lines
//	hold.go      a user's hold: freeze, confirm, attach or resume, report
//	attach.go    one session's way to another store
//	lmtp*.go     deliveries, by recipient
//
// Proxy and migration meet only in the placement record (backend.Placement).
package proxy
