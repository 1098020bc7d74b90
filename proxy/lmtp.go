package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"

	"mailferry/backend"
	"mailferry/internal/line"
)

// Limits of LMTP. The time for DATA must be longer than HoldWait and a store's
// answer together, and shorter than the 10 minutes of RFC 5321, 4.5.3.2.6.
const (
	lmtpIdle    = 5 * time.Minute
	lmtpDeliver = 4 * time.Minute
	// maxMailLine bounds a line of a message. RFC 5321, 4.5.3.1.6
	// says 1,000 octets; mail with lines of hundreds of kilobytes exists, and
	// the stores take it.
	maxMailLine = 1 << 20
)

// ServeLMTP accepts deliveries on l, from trusted mail servers, until Shutdown,
// which closes l; then it returns nil.
func (p *Proxy) ServeLMTP(l net.Listener) error {
	srv := smtp.NewServer(smtp.BackendFunc(p.newLMTPSession))
	srv.LMTP, srv.Domain = true, p.o.Domain
	srv.MaxMessageBytes, srv.MaxRecipients = p.o.MaxMessage, p.o.MaxRecipients
	srv.MaxLineLength = maxMailLine
	srv.ReadTimeout, srv.WriteTimeout = lmtpIdle, lmtpIdle
	srv.EnableSMTPUTF8 = true
	srv.ErrorLog = slog.NewLogLogger(p.log.Handler(), slog.LevelDebug)
	if p.o.TLS != nil {
		srv.TLSConfig = p.tlsFor(&protocol{alpn: "lmtp"})
	}
	serving := &lmtpServer{Server: srv, l: l, ended: make(chan struct{})}
	defer close(serving.ended)
	if !p.lmtp.add(serving) {
		l.Close()
		return nil
	}
	if err := srv.Serve(lmtpListener{l, p}); err != nil && !errors.Is(err, smtp.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

func (s *lmtpServers) add(srv *lmtpServer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopping {
		s.servers = append(s.servers, srv)
	}
	return !s.stopping
}

// shutdown ends transactions that run, tells the idle to go (421), and cuts
// what is left when ctx ends.
func (s *lmtpServers) shutdown(ctx context.Context) {
	s.mu.Lock()
	s.stopping = true
	servers := s.servers
	for c := range s.conns {
		c.leave()
	}
	s.mu.Unlock()
	var wg sync.WaitGroup
	for _, srv := range servers {
		wg.Go(func() {
			// go-smtp would count connections while it waits for them to end, and
			// not close a listener that it does not serve yet.
			srv.l.Close()
			<-srv.ended
			if srv.Shutdown(ctx) != nil {
				srv.Close()
			}
		})
	}
	wg.Wait()
}

// lmtpSession is one connection of a mail server. go-smtp calls it from one
// goroutine.
type lmtpSession struct {
	p    *Proxy
	id   string
	log  *slog.Logger
	conn *lmtpConn
	from string
	opts smtp.MailOptions
	to   []recipient
}

// recipient is one RCPT that was accepted.
type recipient struct {
	addr  string
	entry backend.Entry
	given string // addr as go-smtp knows it
}

// newLMTPSession follows a greeting; where TLS begins there are two.
func (p *Proxy) newLMTPSession(c *smtp.Conn) (smtp.Session, error) {
	conn := connOf(c.Conn())
	if p.drains.on("") && !conn.own {
		return nil, smtpError(421, smtp.EnhancedCode{4, 3, 2}, "Server is closed for maintenance, please connect again")
	}
	return &lmtpSession{p: p, id: conn.id, conn: conn, log: p.logs[backend.LMTP].With("session", conn.id, "client", conn.RemoteAddr().String())}, nil
}

// Logout implements smtp.Session.
func (s *lmtpSession) Logout() error { return nil }

// Reset implements smtp.Session.
func (s *lmtpSession) Reset() { s.from, s.opts, s.to = "", smtp.MailOptions{}, nil }

// Mail implements smtp.Session.
func (s *lmtpSession) Mail(from string, opts *smtp.MailOptions) error {
	s.Reset()
	if !line.ValidCredential(from) {
		return smtpError(553, smtp.EnhancedCode{5, 1, 7}, "Invalid sender address")
	}
	s.from = from
	if opts != nil {
		s.opts = *opts
	}
	return nil
}

// Rcpt looks the recipient up. Nobody's address is refused for good, a
// directory that cannot tell makes the sender come back.
func (s *lmtpSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	given := to
	to = strings.TrimSuffix(to, bareDomain)
	if !line.ValidCredential(to) || strings.ContainsAny(to, "<>") {
		return smtpError(553, smtp.EnhancedCode{5, 1, 3}, "Invalid recipient address")
	}
	entry, err := s.p.lookup(s.p.ctx, to)
	if backend.IsKind(err, backend.KindNotFound) {
		s.p.metrics.deliveries.WithLabelValues("rejected").Inc()
		return smtpError(550, smtp.EnhancedCode{5, 1, 1}, "No such user here")
	}
	if err != nil {
		s.log.Warn("recipient cannot be looked up", "recipient", to, "error", err)
		s.p.metrics.deliveries.WithLabelValues("deferred").Inc()
		return smtpError(451, smtp.EnhancedCode{4, 3, 0}, "Temporary failure, please try again ("+s.id+")")
	}
	s.to = append(s.to, recipient{to, entry, given})
	return nil
}

// Data is not called in LMTP.
func (s *lmtpSession) Data(io.Reader) error {
	return smtpError(502, smtp.EnhancedCode{5, 5, 1}, "Not implemented")
}

// LMTPData delivers one message and answers for each recipient.
func (s *lmtpSession) LMTPData(r io.Reader, status smtp.StatusCollector) error {
	s.conn.setBusy(true)
	defer s.conn.setBusy(false)
	body, err := newSpool(r, s.p.o.SpoolDir)
	if err != nil {
		var se *smtp.SMTPError
		if errors.As(err, &se) {
			return se // too long, or a broken line
		}
		if errors.Is(err, smtp.ErrTooLongLine) {
			return smtpError(554, smtp.EnhancedCode{5, 6, 0}, "A line is too long")
		}
		s.log.Error("message cannot be spooled", "error", err)
		return smtpError(451, smtp.EnhancedCode{4, 3, 1}, "Temporary failure, please try again ("+s.id+")")
	}
	defer body.Close()
	// A sender that goes away does not end what is under way: a store may have
	// taken the message already.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.p.ctx), lmtpDeliver)
	defer cancel()
	d := &delivery{p: s.p, log: s.log, id: s.id + "-" + newID(), from: s.from, opts: s.opts, body: body}
	for i, err := range d.run(ctx, s.to) {
		result := "delivered"
		if err != nil {
			result = "deferred"
			if se := (*smtp.SMTPError)(nil); errors.As(err, &se) && se.Code >= 500 {
				result = "rejected"
			}
		}
		s.p.metrics.deliveries.WithLabelValues(result).Inc()
		status.SetStatus(s.to[i].given, err)
	}
	return nil
}

func smtpError(code int, enhanced smtp.EnhancedCode, text string) error {
	return &smtp.SMTPError{Code: code, EnhancedCode: enhanced, Message: text}
}

// smtpOf maps kinds of errors to replies, in one place. id goes to the sender,
// the cause to the log.
func smtpOf(err error, id string) error {
	var se *smtp.SMTPError
	if err == nil || errors.As(err, &se) {
		return err
	}
	text := fmt.Sprintf("%s (%s)", backend.UserText(err), id)
	switch backend.KindOf(err) {
	case backend.KindNotFound:
		return smtpError(550, smtp.EnhancedCode{5, 1, 1}, "No such user here")
	case backend.KindOverQuota:
		return smtpError(452, smtp.EnhancedCode{4, 2, 2}, "Mailbox is full ("+id+")")
	case backend.KindTooLarge:
		return smtpError(552, smtp.EnhancedCode{5, 3, 4}, "Message is too large")
	case backend.KindPermission:
		return smtpError(550, smtp.EnhancedCode{5, 7, 1}, text)
	case backend.KindInvalid:
		return smtpError(554, smtp.EnhancedCode{5, 6, 0}, text)
	}
	return smtpError(451, smtp.EnhancedCode{4, 3, 0}, "Temporary failure, please try again ("+id+")")
}
