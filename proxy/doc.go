// Package proxy is the front: it ends TLS, reads a client's credentials, finds
// out who the user is and where their mail lives, logs in there on their
// behalf and then carries octets, always knowing whether the session is
// between commands. That knowledge lets it carry a live session over to
// another store.
//
// The life of a session, file by file:
//
//	accept.go    listeners, limits, TLS
//	imap.go      the dialogue before login, as a table of commands
//	login.go     directory, placement, hold, password, backend connection
//	relay.go     two goroutines that carry octets through the tracker
//	tracker*.go  what is known of the session: pure, no I/O, no clock
//	hold.go      a user's hold: freeze, confirm, attach or resume, report
//	attach.go    one session's way to another store
//	lmtp*.go     deliveries, by recipient
//
// Proxy and migration meet only in the placement record (backend.Placement).
package proxy
