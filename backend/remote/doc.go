// Package remote speaks to foreign stores: it dials and logs in on behalf of a
// user, and reads whole accounts with a client that survives what old servers
// send.
//
// dial.go, login.go and lmtp.go are what the proxy and the migration share: a
// verified, logged-in connection with nothing read ahead that is not handed
// over. The tolerant IMAP client is client.go and one file per group of
// commands; scan.go reads responses octet by octet, because names, flags and
// dates of real servers are not what the grammar says.
package remote
