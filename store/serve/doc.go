// Package serve is what the servers of IMAP and POP3 over our own store share:
// the accept loop, the sessions of a server and their polite end (Group), and
// one session's connection with the rules of its login (Conn, Logins). What is
// said on the wire is theirs.
package serve
