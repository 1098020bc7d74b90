package pop3d

import (
	"context"
	"strings"
)

// argument says whether a command takes any.
type argument uint8

const (
	noArgs argument = iota
	mayHaveArgs
	needsArgs
)

// command is a row of the table. run answers "+OK" itself, or returns an error.
type command struct {
	states state
	args   argument
	run    func(ctx context.Context, s *session, arg string) error
}

var commands map[string]*command

func init() {
	commands = map[string]*command{
		"CAPA": {states: anyState, run: runCapa},
		"QUIT": {states: anyState, run: runQuit},

		"USER": {states: stateAuthorization, args: needsArgs, run: runUser},
		"PASS": {states: stateAuthorization, args: mayHaveArgs, run: runPass},
		"AUTH": {states: stateAuthorization, args: mayHaveArgs, run: runAuth},
		"STLS": {states: stateAuthorization, run: runSTLS},

		"STAT": {states: stateTransaction, run: runStat},
		"LIST": {states: stateTransaction, args: mayHaveArgs, run: runList},
		"UIDL": {states: stateTransaction, args: mayHaveArgs, run: runUIDL},
		"RETR": {states: stateTransaction, args: needsArgs, run: runRetr},
		"TOP":  {states: stateTransaction, args: needsArgs, run: runTop},
		"DELE": {states: stateTransaction, args: needsArgs, run: runDele},
		"RSET": {states: stateTransaction, run: runRset},
		"NOOP": {states: stateTransaction, run: runNoop},
	}
}

// runCapa: RFC 2449 section 5. What concerns the login is listed as far as it is
// possible (RFC 2595 section 4).
func runCapa(_ context.Context, s *session, _ string) error {
	list := []string{"TOP", "UIDL", "RESP-CODES", "PIPELINING", "AUTH-RESP-CODE"}
	if s.conn.MayLogin() {
		list = append(list, "USER", "SASL PLAIN")
	}
	if s.state == stateAuthorization && s.conn.MayStartTLS() {
		list = append(list, "STLS")
	}
	list = append(list, "EXPIRE NEVER", "IMPLEMENTATION mailferry", ".")
	s.ok("Capabilities follow")
	s.conn.WriteString(strings.Join(list, "\r\n") + "\r\n")
	return nil
}

func runNoop(_ context.Context, s *session, _ string) error {
	s.ok("Nothing done")
	return nil
}

// runQuit ends the session. In the TRANSACTION state the UPDATE state follows
// (RFC 1939 section 6): the answer is given when the removal is durable and the
// maildrop is free for the next session.
func runQuit(ctx context.Context, s *session, _ string) error {
	s.done = true
	err := s.update(ctx)
	s.release()
	if err != nil {
		s.log.Error("cannot remove messages", "count", s.deletedN, "err", err)
		return refuse(codeTemporary, "Some deleted messages were not removed")
	}
	s.ok("Goodbye")
	return nil
}
