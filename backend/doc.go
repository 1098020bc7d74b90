// Package backend is the contract between the rooms that move mail: the mail
// vocabulary, users and routes, placements, the interfaces of directories and
// stores, and the kinds of errors. It holds words and promises, no machinery:
// no I/O happens here.
//
// Flags, UID sets and the like are the types of
// github.com/emersion/go-imap/v2, which are used where they fit.
package backend
