// Package scenario holds the tests of the promise: mailboxes move from real
// old stores to our own while their owners read, flag, wait in IDLE and get
// mail through the proxy, and neither the owners nor their clients can tell.
//
// The tests run the program as its user would: a real slapd, Dovecot and Cyrus,
// `mailferry serve` as a process of its own, and `mailferry migrate` as a
// command. They have no code besides tests.
package scenario
