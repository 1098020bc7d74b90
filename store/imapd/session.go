package imapd

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"time"

	"mailferry/internal/line"
	"mailferry/store"
	"mailferry/store/serve"
)

// state is a bit, so that a command can name several.
type state uint8

const (
	stateNotAuthenticated state = 1 << iota
	stateAuthenticated
	stateSelected

	anyState   = stateNotAuthenticated | stateAuthenticated | stateSelected
	afterLogin = stateAuthenticated | stateSelected
)

// session is one connection.
type session struct {
	// set at start
	server *Server
	info   ConnInfo

	// owned by the session's goroutine
	conn        *serve.Conn
	d           *line.Decoder
	enc         line.Encoder
	log         *slog.Logger
	state       state
	account     *store.Account
	delegated   bool // a proxy logged in
	view        *view
	saved       line.NumSet // UIDs of SEARCH RETURN (SAVE), RFC 5182
	condstore   bool        // a CONDSTORE enabling command was seen (RFC 7162 section 3.1)
	qresync     bool
	done        bool // LOGOUT, or the connection is beyond help
	loginErrors int
	badCommands int
}

func newSession(server *Server, c net.Conn, info ConnInfo) *session {
	conn := serve.NewConn(c, serve.Peer{Trusted: info.Trusted, TLS: info.TLS}, &server.logins)
	s := &session{server: server, info: info, state: stateNotAuthenticated, conn: conn,
		log: server.log.With("session", conn.ID(), "proto", "imap", "remote", info.Remote)}
	s.enc = line.Encoder{Writer: s.conn.Writer}
	s.d = line.NewDecoder(s.conn.Reader, line.PreLogin)
	s.d.Continue = func() error {
		s.enc.Text("+ OK\r\n")
		return s.conn.Flush()
	}
	return s
}

func (s *session) serve(ctx context.Context) {
	defer s.unselect()
	s.enc.Text("* OK [CAPABILITY")
	for _, c := range s.capabilities() {
		s.enc.SP().Text(c)
	}
	s.enc.Text("] ")
	if h := s.server.o.Hostname; h != "" {
		s.enc.Text(h).SP()
	}
	s.enc.Text("mailferry ready\r\n")
	if err := s.conn.Loop(ctx, s.next); err != nil {
		s.log.Debug("write failed", "err", err)
	}
}

// next waits for a command and runs it; false ends the session.
func (s *session) next(ctx context.Context) bool {
	idle := s.server.o.Limits.Idle
	if s.state == stateNotAuthenticated {
		idle = s.server.o.Limits.Login
	}
	if s.conn.Stopping() {
		s.bye("UNAVAILABLE", "Server is shutting down")
		return false
	}
	err := s.conn.Wait(idle, s.server.o.Limits.Command)
	switch {
	case err == nil:
	case errors.Is(err, line.ErrWoken):
		return true
	case errors.Is(err, line.ErrIdle):
		s.bye("", "Idle for too long")
		return false
	default:
		s.log.Debug("client is gone", "err", err)
		return false
	}
	return s.command(ctx)
}

// bye is the server's last word.
func (s *session) bye(code, text string) {
	s.enc.Text("* BYE ")
	if code != "" {
		s.enc.Text("[" + code + "] ")
	}
	s.enc.Text(text).CRLF()
	s.done = true
}

// call is one command.
type call struct {
	tag   string
	name  string // as in the table, UID included
	uid   bool   // arguments and answers are UIDs
	began time.Time
	d     *line.Decoder
}

// command reads and runs one command; false ends the session.
func (s *session) command(ctx context.Context) bool {
	c := &call{began: time.Now(), d: s.d, tag: "*", name: "unknown"}
	if err := s.d.Begin(); err != nil {
		return s.answer(c, err)
	}
	cmd, err := s.lookup(c)
	if err == nil {
		err = cmd.run(ctx, s, c)
	}
	if errors.Is(err, errAnswered) {
		return !s.done
	}
	if derr := s.d.Err(); derr != nil {
		err = derr // what follows from it does not matter
	}
	if ok, fatal := s.parsed(err); !ok {
		if fatal {
			return false
		}
		return s.answer(c, err)
	}
	if s.view != nil && cmd != nil && !cmd.quiet {
		if serr := s.reportChanges(ctx, cmd.expunge, cmd.sync); serr != nil {
			s.log.Warn("cannot read changes of the mailbox", "err", serr)
		}
	}
	return s.answer(c, err)
}

// parsed tells an error of the client's text or of the connection (fatal) from
// one of the command's work (ok).
func (s *session) parsed(err error) (ok, fatal bool) {
	var syntax *line.SyntaxError
	switch {
	case err == nil:
		return true, false
	case errors.As(err, &syntax), errors.Is(err, line.ErrTooBig), errors.Is(err, line.ErrLineTooLong):
		return false, false
	case s.d.Err() != nil:
		s.log.Debug("connection lost within a command", "err", err)
		return true, true
	}
	return true, false
}

// answer writes the tagged response; false ends the session.
func (s *session) answer(c *call, err error) bool {
	st := s.statusFor(c, err)
	if st == nil {
		return false
	}
	result := map[string]string{"OK": "ok", "NO": "no", "BAD": "bad"}[st.kind]
	s.server.met.commands.WithLabelValues(c.name, result).Inc()
	if c.name != "IDLE" {
		s.server.met.seconds.Observe(time.Since(c.began).Seconds())
	}
	s.enc.Text(c.tag).SP().Text(st.kind).SP()
	if st.code != "" {
		s.enc.Text("[" + st.code + "] ")
	}
	s.enc.Text(st.text).CRLF()
	if st.kind != "BAD" {
		s.badCommands = 0
		return !s.done
	}
	return s.punish()
}

// statusFor is the tagged response; nil when the connection is lost.
func (s *session) statusFor(c *call, err error) *status {
	if err == nil {
		return &status{"OK", "", c.name + " completed"}
	}
	const maxDiscard = 1 << 20
	if derr := s.d.Err(); derr != nil || !s.d.AtEnd() {
		if derr := s.d.Discard(max(maxDiscard, s.discardable())); derr != nil {
			s.bye("", "Too much to skip")
			s.conn.Flush()
			return nil
		}
	}
	var syntax *line.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return &status{"BAD", "", syntax.Text}
	case errors.Is(err, line.ErrTooBig):
		return &status{"BAD", "TOOBIG", "Command or literal is too large"}
	case errors.Is(err, line.ErrLineTooLong):
		return &status{"BAD", "TOOBIG", "Line is too long"}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil
	}
	st, log := statusOf(err)
	if log {
		s.log.Error("command failed", "command", c.name, "err", err)
	}
	return st
}

// discardable is how much of a refused command is read and dropped so that the
// connection can go on: a whole message, once the client has logged in.
func (s *session) discardable() int64 {
	if s.state == stateNotAuthenticated {
		return 0
	}
	return s.server.o.Limits.AppendSize
}

// punish counts a BAD; false when it was one too many.
func (s *session) punish() bool {
	s.badCommands++
	limit := s.server.o.Limits.BadCommands
	if s.state == stateNotAuthenticated {
		limit = max(1, limit/4)
	}
	if s.badCommands < limit {
		return !s.done
	}
	s.bye("", "Too many bad commands")
	return false
}
