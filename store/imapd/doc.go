// Package imapd is the IMAP server of our own store: a thin adapter between the
// wire (internal/line) and package store. It speaks IMAP4rev1 (RFC 3501) and
// the extensions that Capabilities lists.
//
// One goroutine owns a connection; it reads a command, checks it against the
// table in commands.go, parses it, runs it, reports what others have changed,
// and answers. Each group of commands has a file of its own.
//
// # View
//
// What a client knows of its mailbox is the session's view (view.go): the UIDs
// behind its sequence numbers and the last modseq that it saw. Changes come from
// the store by modseq, whoever made them. EXPUNGE is withheld during FETCH,
// STORE and SEARCH and while no command runs (RFC 3501 section 7.4.1), and sent
// with the next command that allows it.
//
// # RESUME
//
// A proxy that moves a client's session to another store, or to another
// connection, continues it with RESUME. The command is offered only to sessions
// whose login was delegated by a proxy, and to trusted connections:
//
//	resume        = "RESUME" SP mailbox SP "(" resume-param *(SP resume-param) ")"
//	              / "RESUME" SP "NIL" [SP "(" ["ENABLED" SP enabled] ")"]
//	resume-param  = "UIDVALIDITY" SP nz-number / "MODSEQ" SP number64
//	              / "VIEW" SP uid-set / "SAVED" SP uid-set
//	              / "ENABLED" SP enabled / "READONLY"
//	enabled       = "(" [capability *(SP capability)] ")"
//	uid-set       = sequence-set / string  ; a string holds a sequence-set
//	                                       ; or is empty
//
// UIDVALIDITY and MODSEQ must be given. VIEW is the client's view, each UID of
// it; without VIEW it is empty. A large set may come as a literal of up to
// 16 MiB. MODSEQ is the last modseq that the client saw; 0 stands for the
// present one, for clients that never saw any: flags that were changed before
// are not reported then. SAVED is the result of SEARCH RETURN (SAVE).
//
// The answer is "OK [RESUMED]" alone, without untagged data, and the session is
// exactly where the client left it: what was expunged since, what is new and
// which flags have changed is reported by the commands that follow, under the
// rules of any other session. "NO [CANNOT]" says that it cannot be continued:
// another UIDVALIDITY, a UID that was never given out, or a feature that is not
// known here. The session is authenticated then, with nothing selected.
package imapd
