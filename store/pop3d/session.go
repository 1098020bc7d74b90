package pop3d

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"time"

	"mailferry/internal/line"
	"mailferry/store"
	"mailferry/store/serve"
)

// state is a bit, so that a command can name several. The UPDATE state is
// within QUIT.
type state uint8

const (
	stateAuthorization state = 1 << iota
	stateTransaction

	anyState = stateAuthorization | stateTransaction
)

// session is one connection.
type session struct {
	// set at start
	server *Server

	// owned by the session's goroutine
	conn        *serve.Conn
	log         *slog.Logger
	state       state
	name        string // of USER
	account     *store.Account
	unlock      func() // frees the maildrop; nil before the login
	drop        *store.Maildrop
	deleted     []bool // by index; nil until the first DELE
	deletedN    int
	deletedSize int64
	done        bool // QUIT, or the connection is beyond help
	loginErrors int
	badCommands int
}

func newSession(server *Server, c net.Conn, info ConnInfo) *session {
	conn := serve.NewConn(c, serve.Peer{Trusted: info.Trusted, TLS: info.TLS}, &server.logins)
	return &session{server: server, state: stateAuthorization, conn: conn,
		log: server.log.With("session", conn.ID(), "proto", "pop3", "remote", info.Remote)}
}

func (s *session) serve(ctx context.Context) {
	defer s.release()
	s.ok(strings.TrimSpace(s.server.o.Hostname + " mailferry ready"))
	if err := s.conn.Loop(ctx, s.next); err != nil {
		s.log.Debug("write failed", "err", err)
	}
}

// release gives the maildrop back, without UPDATE (RFC 1939 section 6).
func (s *session) release() {
	if s.unlock != nil {
		s.unlock()
	}
}

// next waits for a command and runs it; false ends the session. An idle session
// ends without a word and without UPDATE (RFC 1939 section 3).
func (s *session) next(ctx context.Context) bool {
	idle := s.server.o.Limits.Idle
	if s.state == stateAuthorization {
		idle = s.server.o.Limits.Login
	}
	if s.conn.Stopping() {
		s.goodbye(codeTemporary, "Server is shutting down, try again later")
		return false
	}
	err := s.conn.Wait(idle, s.server.o.Limits.Command)
	if errors.Is(err, line.ErrWoken) {
		return true
	}
	if err != nil {
		s.log.Debug("client is gone or idle", "err", err)
		return false
	}
	return s.command(ctx)
}

// goodbye is an answer that nobody asked for, or the last of several: clients
// read it as that of their next command.
func (s *session) goodbye(code, text string) {
	s.fail(&failure{code, text})
	s.done = true
}

func (s *session) ok(text string) {
	s.conn.WriteString("+OK " + text + "\r\n")
}

func (s *session) fail(f *failure) {
	s.conn.WriteString("-ERR ")
	if f.code != "" {
		s.conn.WriteString("[" + f.code + "] ")
	}
	s.conn.WriteString(f.text + "\r\n")
}

// maxLine bounds a line. RFC 2449 section 4 gives commands 255 octets, but
// passwords and SASL responses of real clients may be longer (RFC 5034 section 4).
var maxLine = line.PreLogin.Line

// maxSkipped bounds what is read of a line that is longer.
const maxSkipped = 1 << 20

// command reads and runs one command; false ends the session.
func (s *session) command(ctx context.Context) bool {
	began := time.Now()
	l, err := s.conn.ReadLine(maxLine)
	if errors.Is(err, line.ErrLineTooLong) {
		if _, err = s.conn.SkipLine(maxSkipped); errors.Is(err, line.ErrLineTooLong) {
			s.goodbye("", "Line is too long")
			return false
		}
		if err == nil {
			return s.answer("unknown", began, bad("Line is too long"))
		}
	}
	if err != nil {
		s.log.Debug("connection lost within a command", "err", err)
		return false
	}
	name, arg := splitCommand(l)
	cmd := commands[name]
	switch {
	case cmd == nil:
		return s.answer("unknown", began, bad("Unknown command"))
	case cmd.states&s.state == 0 && s.state == stateAuthorization:
		err = bad("Log in first")
	case cmd.states&s.state == 0:
		err = bad("You are logged in")
	case arg != "" && cmd.args == noArgs:
		err = bad("No argument expected")
	case arg == "" && cmd.args == needsArgs:
		err = bad("Argument expected")
	default:
		err = cmd.run(ctx, s, arg)
	}
	return s.answer(name, began, err)
}

// splitCommand splits a line at its first space. Spaces belong to a password,
// so the argument keeps those that follow.
func splitCommand(l []byte) (name, arg string) {
	before, after, _ := bytes.Cut(l, []byte(" "))
	return strings.ToUpper(string(before)), string(after)
}

// answer writes the "-ERR" of an error, as a command that succeeds has answered
// itself; false ends the session.
func (s *session) answer(name string, began time.Time, err error) bool {
	s.server.met.seconds.Observe(time.Since(began).Seconds())
	if err == nil {
		s.server.met.commands.WithLabelValues(name, "ok").Inc()
		s.badCommands = 0
		return !s.done
	}
	s.server.met.commands.WithLabelValues(name, "err").Inc()
	f, log := failureOf(err)
	if log {
		s.log.Error("command failed", "command", name, "err", err)
	}
	s.fail(f)
	var wrong bad
	if !errors.As(err, &wrong) {
		s.badCommands = 0
		return !s.done
	}
	limit := s.server.o.Limits.BadCommands
	if s.state == stateAuthorization {
		limit = max(1, limit/4)
	}
	if s.badCommands++; s.badCommands >= limit {
		s.goodbye("", "Too many wrong commands")
	}
	return !s.done
}
