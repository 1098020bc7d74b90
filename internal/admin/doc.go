// Package admin is how a running node is asked and told: the types of its API,
// the server behind DATA/admin.sock and the HTTPS listener, and the client that
// the commands use.
//
// Requests and answers are JSON. Listings are arrays; a watch is a stream of
// JSON lines. An error is an object with the text, its kind (see
// backend.Kind) and, where there is one, a hint what to try next.
package admin
