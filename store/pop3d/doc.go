// Package pop3d is the POP3 server of our own store (RFC 1939, RFC 2449): a thin
// adapter between the wire (internal/line) and package store.
//
// One goroutine owns a connection; it reads a line, checks it against the table
// in commands.go, runs it and answers. Answers to pipelined commands go
// together (RFC 2449 section 6.6).
//
// # Maildrop
//
// The login takes a list of the INBOX (store.Maildrop): message numbers, sizes
// and unique ids hold for the session, whatever IMAP sessions do meanwhile. One
// session per user at a time has it; others get [IN-USE]. What DELE marked is
// removed by QUIT alone (the UPDATE state), before its answer: a "+OK" means
// that it is gone for good. A message that somebody else has expunged answers
// RETR with "-ERR", and DELE and QUIT as if it were there.
//
// POP3 leaves flags alone: RETR does not set \Seen, and messages with \Deleted
// are listed.
//
// # Octets
//
// A message goes out as it was stored, dot-stuffed, except that a lone LF
// becomes CRLF and a last line without an end gets one (RFC 1939 section 3
// knows no other line). Sizes are those of the stored octets, as RFC822.SIZE is:
// for a message of proper lines they are exact. To count others would mean to
// read every message for a LIST.
package pop3d
