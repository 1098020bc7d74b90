// Package store is our own mailstore: users, their mailboxes and messages, kept
// through an engine.Engine.
//
// Two halves meet in the commands of commands.go. The Machine applies commands
// to a shard's keyspace, the same on every replica: it alone gives UIDs,
// UIDVALIDITYs and modseqs. The Store, its Accounts and Imports propose
// commands and read views. A protocol adapter (store/imapd, store/lmtpd,
// store/submission) sees only the second half.
//
// Every error that leaves the package is a backend.Error with a Kind.
package store
