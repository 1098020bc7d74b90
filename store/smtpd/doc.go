// Package smtpd is what the servers of LMTP and of message submission share: a
// go-smtp server that ends its sessions politely, trace header fields, and the
// replies that kinds of errors become.
package smtpd
