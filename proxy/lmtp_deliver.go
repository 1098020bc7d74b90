package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/emersion/go-smtp"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// delivery carries one message to all its recipients' stores.
type delivery struct {
	p    *Proxy
	log  *slog.Logger
	id   string
	from string
	opts smtp.MailOptions
	body *spool
}

// stop is one recipient on the way: its route, and the ticket that keeps a hold
// from being confirmed while the message may be on its way there.
type stop struct {
	index  int // of the RCPT
	rcpt   recipient
	route  backend.Route
	ticket *ticket
	err    error
}

// destination is one store at one host.
type destination struct {
	store *backend.Store
	host  string
}

// run answers for each recipient in their order: nil after the destination's
// 250 and not before. Several addresses of one user get one copy. A user on
// hold is waited for, up to HoldWait.
func (d *delivery) run(ctx context.Context, to []recipient) []error {
	errs := make([]error, len(to))
	first := map[string]int{} // user -> index of the RCPT that carries the message
	var stops []*stop
	for i, r := range to {
		if _, again := first[userKey(r.entry.User)]; !again {
			first[userKey(r.entry.User)] = i
			stops = append(stops, &stop{index: i, rcpt: r})
		}
	}
	d.admit(ctx, stops)
	groups := map[destination][]*stop{}
	for _, s := range stops {
		if s.err == nil {
			dst := destination{s.route.Store, s.route.Host}
			groups[dst] = append(groups[dst], s)
		}
	}
	var wg sync.WaitGroup
	for dst, group := range groups {
		wg.Go(func() {
			d.send(ctx, dst, group)
			for _, s := range group {
				s.ticket.close()
			}
		})
	}
	wg.Wait()
	for _, s := range stops {
		if s.err != nil {
			d.log.Info("not delivered", "user", s.rcpt.entry.User, "error", s.err)
		}
		errs[s.index] = smtpOf(s.err, d.id)
	}
	for i, r := range to {
		errs[i] = errs[first[userKey(r.entry.User)]]
	}
	return errs
}

// admit finds where each recipient lives now, waiting for holds side by side.
func (d *delivery) admit(ctx context.Context, stops []*stop) {
	var wg sync.WaitGroup
	for _, s := range stops {
		wg.Go(func() {
			_, t, pl, err := d.p.reg.admit(ctx, s.rcpt.entry.User, true, d.p.o.HoldWait)
			if backend.IsKind(err, backend.KindTemporary) {
				err = smtpError(451, smtp.EnhancedCode{4, 2, 1}, "Mailbox is being moved, please try again")
			}
			if s.ticket, s.err = t, err; err != nil {
				return
			}
			if s.route, s.err = d.p.route(s.rcpt.entry, pl); s.err != nil {
				t.close()
			}
		})
	}
	wg.Wait()
}

// send brings the message to one destination and sets each stop's err.
func (d *delivery) send(ctx context.Context, dst destination, group []*stop) {
	if dst.store.Local() {
		d.sendLocal(ctx, group)
		return
	}
	if err := d.sendRemote(ctx, group); err != nil {
		d.log.Warn("store did not take a message", "store", dst.store.Name, "host", dst.host, "error", err)
	}
}

func (d *delivery) sendLocal(ctx context.Context, group []*stop) {
	m := Message{From: d.from, Size: d.body.size, Open: d.body.open, ID: d.id}
	for _, s := range group {
		m.Recipients = append(m.Recipients, s.rcpt.entry.User)
	}
	var errs []error
	if d.p.o.Deliverer != nil {
		errs = d.p.o.Deliverer.Deliver(ctx, m)
	}
	for i, s := range group {
		s.err = errNoAnswer
		if i < len(errs) {
			s.err = errs[i]
		}
	}
}

var errNoAnswer = backend.NewError(backend.KindUnavailable, "the store did not answer")

// Timeouts of a foreign store's LMTP; RFC 5321, 4.5.3.2 allows more than a
// sender that waits for us has patience for.
const (
	lmtpCommand = time.Minute
	lmtpAnswer  = 3 * time.Minute
)

// sendRemote relays to a foreign store over LMTP. Whatever is not answered with
// 250 counts as not delivered; the message may be there all the same when the
// connection broke between the octets and the answer, as ever in SMTP.
func (d *delivery) sendRemote(ctx context.Context, group []*stop) (err error) {
	defer func() {
		for _, s := range group {
			if s.err == errPending {
				s.err = backend.Errorf(backend.KindUnavailable, "", "%w", err)
			}
		}
	}()
	for _, s := range group {
		s.err = errPending
	}
	conn, err := d.dial(ctx, group[0].route)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	c := smtp.NewClientLMTP(conn)
	c.CommandTimeout, c.SubmissionTimeout = lmtpCommand, lmtpAnswer
	if err := c.Hello(d.p.o.Domain); err != nil {
		return err
	}
	if err := c.Mail(d.from, &smtp.MailOptions{Size: d.body.size, UTF8: d.opts.UTF8}); err != nil {
		return d.failAll(group, err)
	}
	accepted := map[string]*stop{}
	for _, s := range group {
		if err := c.Rcpt(s.rcpt.addr, nil); err != nil {
			var se *smtp.SMTPError
			if !errors.As(err, &se) {
				return err
			}
			s.err = foreignReply(se)
			continue
		}
		accepted[s.rcpt.addr] = s
	}
	if len(accepted) == 0 {
		_ = c.Quit()
		return nil
	}
	return d.data(c, group, accepted)
}

var errPending = errors.New("no answer yet")

// data sends the octets and takes the answers, one for each recipient.
func (d *delivery) data(c *smtp.Client, group []*stop, accepted map[string]*stop) error {
	w, err := c.Data()
	if err != nil {
		return d.failAll(group, err)
	}
	if _, err := io.Copy(w, d.body.open()); err != nil {
		return err // without the final dot: the store drops it
	}
	replies, err := w.CloseWithLMTPResponse()
	for addr := range replies {
		if s := accepted[addr]; s != nil {
			s.err = nil
		}
	}
	var refused smtp.LMTPDataError
	if errors.As(err, &refused) {
		for addr, se := range refused {
			if s := accepted[addr]; s != nil {
				s.err = foreignReply(se)
			}
		}
	}
	_ = c.Quit()
	return err
}

// failAll gives a reply that is about the whole message to all that have none.
func (d *delivery) failAll(group []*stop, err error) error {
	var se *smtp.SMTPError
	if errors.As(err, &se) {
		for _, s := range group {
			if s.err == errPending {
				s.err = foreignReply(se)
			}
		}
	}
	return err
}

// foreignReply passes a store's reply on, code and text; a code that is neither
// 4xx nor 5xx is none.
func foreignReply(se *smtp.SMTPError) error {
	if se.Code < 400 || se.Code > 599 {
		return errNoAnswer
	}
	return se
}

func (d *delivery) dial(ctx context.Context, r backend.Route) (net.Conn, error) {
	if d.p.o.DialLMTP != nil {
		return d.p.o.DialLMTP(ctx, r)
	}
	st := storeFor(r)
	return remote.DialLMTP(ctx, remote.Target{Store: &st, Host: r.Host, User: r.User})
}
