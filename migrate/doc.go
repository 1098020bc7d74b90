// Package migrate moves users between stores while they are logged in.
//
// plan.go names what an account holds; listing.go and copy.go bring it over
// with its old identity; follow.go keeps the copy up to date; verify.go
// compares both sides; cutover.go decides, without I/O or clock, how a user is
// flipped, and driver.go does what it decides; recover.go cleans up after a
// crash. engine.go runs batches of users, journal.go remembers them on disk.
//
// docs/cutover.md lists every state, transition and crash.
package migrate
