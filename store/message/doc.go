// Package message finds the structure of a message: its MIME parts with their
// offsets, sizes and line counts, the fields of ENVELOPE and BODYSTRUCTURE
// (RFC 9051 section 7.5.2), and the octets of a body section.
//
// It accepts every sequence of octets and never fails a message. Where a
// message breaks the rules, the answers follow Dovecot's, because clients
// cache them and must not see a difference after a move. Memory is bounded by
// the constants of this package, whatever the message; its octets are never
// held.
package message
