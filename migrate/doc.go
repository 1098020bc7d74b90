// Package migrate moves users between stores while they are logged in.
//
// plan.go names what an account holds; listing.go and copy.go bring it over
// with its old identity; follow.go keeps the copy up to date; verify.go
// compares both sides, certificate.go writes down what was found. cutover.go and
// abort.go decide, without I/O or clock, how a user is flipped; driver.go and
// holding.go do what they decide. engine.go and batch.go run batches of users,
// control.go is what operators ask of them, journal.go remembers them on disk.
//
// docs/cutover.md lists every state, transition and crash.
package migrate
