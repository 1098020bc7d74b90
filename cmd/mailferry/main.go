// Command mailferry is an IMAP and LMTP proxy, a mailstore and the engine that
// moves mailboxes between stores while their owners are logged in.
//
// serve runs a node; the other commands ask or tell a running one over the
// socket in its data directory, or work on files. Every command has a file
// here, which only translates between the command line and internal/admin,
// internal/app or internal/config.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(run()) }

// run is main with an exit code, for tests that are the program themselves.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once: the first one has been heard.
	context.AfterFunc(ctx, stop)
	c := &cli{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	return c.execute(ctx, os.Args[1:])
}
