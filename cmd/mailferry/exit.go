package main

import (
	"context"
	"errors"
	"fmt"

	"mailferry/backend"
	"mailferry/internal/admin"
	"mailferry/internal/config"
)

// Exit codes.
const (
	exitDone    = 0
	exitFailed  = 1
	exitUsage   = 2 // the command line or the configuration is wrong
	exitPartial = 3 // done in part: what was printed says what is missing
)

// usageError is a mistake on the command line.
type usageError struct{ err error }

func (u usageError) Error() string { return u.err.Error() }
func (u usageError) Unwrap() error { return u.err }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// errPartial: some of what was asked for is done.
var errPartial = errors.New("done in part")

// errPartialSaid is errPartial where the output has said so, in a form that
// programs read and that nothing may follow.
var errPartialSaid = fmt.Errorf("%w, as reported", errPartial)

func exitCode(err error) int {
	var usage usageError
	var problems config.Problems
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, errPartial):
		return exitPartial
	case errors.As(err, &usage), errors.As(err, &problems), backend.IsKind(err, backend.KindInvalid):
		return exitUsage
	}
	return exitFailed
}

// report prints an error as users read it: what is wrong, then what to try.
func (c *cli) report(err error) {
	var problems config.Problems
	switch {
	case errors.Is(err, errPartialSaid):
	case errors.As(err, &problems):
		fmt.Fprintln(c.stderr, problems)
		mistakes := "mistakes"
		if len(problems) == 1 {
			mistakes = "mistake"
		}
		fmt.Fprintf(c.stderr, "mailferry: %d %s in the configuration\n", len(problems), mistakes)
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(c.stderr, "mailferry: interrupted")
	default:
		fmt.Fprintf(c.stderr, "mailferry: %v\n", err)
	}
	if hint := admin.HintOf(err); hint != "" {
		fmt.Fprintf(c.stderr, "hint: %s\n", hint)
	}
}
