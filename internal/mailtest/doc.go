// Package mailtest holds what tests need to talk to the real world: slapd, Samba,
// Dovecot and Cyrus started in directories of their own on free loopback
// ports, real mail clients, a corpus of real messages, a relay that breaks
// connections on purpose, a strict IMAP dialogue client, and drivers that use
// a mailbox for as long as a test lasts and check every byte for sense.
//
// Only tests import it. Every Start function stops what it started when the
// test ends, and what it started also ends when the test process is killed.
// bench/peers/install.sh installs the peers; without them tests are skipped
// loudly, or fail where CI is set (see Require).
package mailtest
