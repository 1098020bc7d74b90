package submission

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/emersion/go-smtp"

	"mailferry/backend"
	"mailferry/store/smtpd"
)

// session is one connection; go-smtp calls it from one goroutine at a time. A
// new one begins after STARTTLS.
type session struct {
	server   *Server
	conn     *smtp.Conn
	ctx      context.Context
	cancel   context.CancelFunc
	user     string // empty before AUTH
	failures int

	from       string
	addresses  []string // as the client wrote them
	recipients []string // as the router wants them
}

var errAuthRequired = &smtp.SMTPError{Code: 530, EnhancedCode: smtp.EnhancedCode{5, 7, 0}, Message: "authentication required"}

// Reset implements smtp.Session.
func (s *session) Reset() { s.from, s.addresses, s.recipients = "", nil, nil }

// Logout implements smtp.Session.
func (s *session) Logout() error {
	s.cancel()
	s.server.open.Add(-1)
	return nil
}

// Mail implements smtp.Session. The sender must be the user's own address
// (RFC 6409 6.1); the empty one is for reports, which users do not send.
func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	if s.user == "" {
		return errAuthRequired
	}
	owns, err := s.server.options.Users.Owns(s.ctx, s.user, from)
	if err != nil {
		return smtpd.Reply(err)
	}
	if from == "" || !owns {
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 7, 1}, Message: "you may not send from this address"}
	}
	s.from = from
	return nil
}

// Rcpt implements smtp.Session.
func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if s.user == "" {
		return errAuthRequired
	}
	r, err := s.server.options.Router.Recipient(s.ctx, to)
	if backend.IsKind(err, backend.KindNotFound) && !s.local(to) {
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 7, 1},
			Message: "this server does not send mail to other servers, and has no such user"}
	}
	if err != nil {
		return smtpd.Reply(err)
	}
	s.addresses, s.recipients = append(s.addresses, to), append(s.recipients, r)
	return nil
}

func (s *session) local(address string) bool {
	i := strings.LastIndexByte(address, '@')
	if i < 0 {
		return true
	}
	f := s.server.options.LocalDomain
	return f != nil && f(address[i+1:])
}

// Data implements smtp.Session. There is one reply for all recipients: an error
// only when nobody got the mail. When some did, the others' failures come to
// the sender as a report.
func (s *session) Data(r io.Reader) error {
	if s.user == "" {
		return errAuthRequired
	}
	defer smtpd.Busy(s.conn.Conn())()
	now := s.server.options.Now()
	trace := s.trace(now)
	body, err := complete(r, s.server.options.Domain, now)
	if err != nil {
		return smtpd.Reply(err)
	}
	header := smtpd.ReturnPath(s.from) + trace.Received()
	errs := s.server.options.Router.DeliverStream(s.ctx, s.from, s.recipients, smtpd.Prepend(header, body))
	var failed []failure
	for i, err := range errs {
		if err != nil {
			s.server.log.Warn("submission not delivered", "id", trace.ID, "recipient", s.addresses[i], "error", err)
			failed = append(failed, failure{s.addresses[i], err})
		}
	}
	if len(failed) == 0 {
		return nil
	}
	if len(failed) < len(errs) && s.report(failed, trace.ID, now) {
		return nil
	}
	return smtpd.Reply(failed[0].err)
}

func (s *session) trace(now time.Time) smtpd.Trace {
	with := "ESMTPA"
	if _, secure := s.conn.TLSConnectionState(); secure {
		with = "ESMTPSA"
	}
	t := smtpd.TraceOf(s.conn, s.server.options.Domain, with)
	t.Time = now
	if len(s.addresses) == 1 {
		t.Recipient = s.addresses[0]
	}
	return t
}

// report files a report in the sender's own mailbox.
func (s *session) report(failed []failure, id string, now time.Time) bool {
	router := s.server.options.Router
	to, err := router.Recipient(s.ctx, s.from)
	if err == nil {
		text := reportText(s.server.options.Domain, s.from, id, failed, now)
		err = router.DeliverStream(s.ctx, "", []string{to}, strings.NewReader(text))[0]
	}
	if err != nil {
		s.server.log.Error("report not delivered", "id", id, "error", err)
	}
	return err == nil
}
