// Package target makes a foreign IMAP store the target of a copy: a
// backend.Importer over APPEND. The store gives UIDs of its own, so the old ones
// are kept in a map on disk, from which a copy is followed, repeated and
// recovered without loss and without doubles.
//
// uidmap.go is that map, and the journal of what was sent and not yet answered;
// recover.go finds out what became of it. rules.go gives mailboxes their names,
// prepare.go creates them. mailbox.go is one of them: put.go sends messages,
// refuse.go finds those that the store will not take, flags.go and expunge.go
// follow the source, reread.go reads back. spool.go holds messages until the
// store has taken them.
package target
