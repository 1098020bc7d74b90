package app

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/emersion/go-smtp"

	"mailferry/backend"
	"mailferry/cluster/engine"
	"mailferry/internal/line"
	"mailferry/proxy"
	"mailferry/store"
	"mailferry/store/smtpd"
)

// deliverer files what the proxy has routed to our own store.
type deliverer struct {
	store  *store.Store
	domain string
	now    func() time.Time
}

// Deliver implements proxy.Deliverer: recipients of a shard share one body. The
// proxy hands each message over once, and the store repeats it under an id of
// its own.
func (d deliverer) Deliver(ctx context.Context, m proxy.Message) []error {
	return d.store.Deliver(ctx, store.Delivery{Recipients: m.Recipients,
		Body: func(ctx context.Context, id engine.ShardID) (engine.StagedBody, error) { return d.stage(ctx, id, m) }})
}

// stage writes one body, with the fields of final delivery (RFC 5321, 4.4).
func (d deliverer) stage(ctx context.Context, id engine.ShardID, m proxy.Message) (engine.StagedBody, error) {
	w, err := d.store.NewBody(ctx, id)
	if err != nil {
		return nil, err
	}
	trace := smtpd.Trace{Domain: d.domain, With: "LMTP", ID: m.ID, Time: d.now()}
	_, err = io.Copy(w, smtpd.Prepend(smtpd.ReturnPath(m.From)+trace.Received(), m.Open()))
	if err != nil {
		w.Abort()
		return nil, err
	}
	return w.Finish()
}

// router gives submitted mail to the proxy, over LMTP within the process: what
// holds for a delivery from outside (routes, holds, one answer each) holds for it.
type router struct {
	dirs   *directories
	dial   func(context.Context) (net.Conn, error)
	domain string
}

// Recipient implements submission.Router: only our own users get mail.
func (r router) Recipient(ctx context.Context, address string) (string, error) {
	if _, err := r.dirs.Lookup(ctx, address); err != nil {
		return "", err
	}
	return address, nil
}

// DeliverStream implements submission.Router.
func (r router) DeliverStream(ctx context.Context, from string, recipients []string, body io.Reader) []error {
	answers := map[string]error{}
	err := r.send(ctx, from, recipients, body, answers)
	errs := make([]error, len(recipients))
	for i, to := range recipients {
		answer, ok := answers[to]
		switch {
		case ok:
			errs[i] = answer
		case err != nil:
			errs[i] = err
		default:
			errs[i] = backend.NewError(backend.KindUnavailable, "no answer")
		}
	}
	return errs
}

// send has one LMTP transaction and files the answers that it gets.
func (r router) send(ctx context.Context, from string, recipients []string, body io.Reader, answers map[string]error) error {
	conn, err := r.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	c := smtp.NewClientLMTP(conn)
	if err := c.Hello(r.domain); err != nil {
		return unavailable("inner LMTP: %w", err)
	}
	// Only where it is needed: a foreign store may not know it.
	o := &smtp.MailOptions{UTF8: !ascii(from) || slices.ContainsFunc(recipients, func(s string) bool { return !ascii(s) })}
	if err := c.Mail(from, o); err != nil {
		return err
	}
	accepted := 0
	for _, to := range slices.Compact(slices.Sorted(slices.Values(recipients))) {
		if err := c.Rcpt(to, nil); err != nil {
			answers[to] = err
			continue
		}
		accepted++
	}
	if accepted == 0 {
		return nil
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, withoutReturnPath(body)); err != nil {
		return err // without the final dot nothing is delivered
	}
	return finish(w, answers)
}

// withoutReturnPath drops the field where submission has put it on top: final
// delivery adds it (RFC 5321, 4.4).
func withoutReturnPath(body io.Reader) io.Reader {
	const field = "Return-Path:"
	r := bufio.NewReader(body)
	if begin, err := r.Peek(len(field)); err == nil && strings.EqualFold(string(begin), field) {
		_, _ = r.ReadString('\n') // an error comes again with the next read
	}
	return r
}

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII })
}

// finish ends the message and takes an answer for each recipient.
func finish(w *smtp.DataCommand, answers map[string]error) error {
	delivered, err := w.CloseWithLMTPResponse()
	for to := range delivered {
		answers[to] = nil
	}
	var refused smtp.LMTPDataError
	if errors.As(err, &refused) {
		for to, answer := range refused {
			answers[to] = answer
		}
		return nil
	}
	return err
}

// pipeListener is a listener within the process.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{} // closed by Close
	close func()
}

func newPipeListener() *pipeListener {
	l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	l.close = sync.OnceFunc(func() { close(l.done) })
	return l
}

// dial returns the client's end of a connection that Accept has taken.
func (l *pipeListener) dial(ctx context.Context) (net.Conn, error) {
	ours, theirs := line.Pipe()
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.done:
		return nil, unavailable("dial: %w", net.ErrClosed)
	case <-ctx.Done():
		return nil, unavailable("dial: %w", ctx.Err())
	}
}

// Accept implements net.Listener.
func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *pipeListener) Close() error {
	l.close()
	return nil
}

// Addr implements net.Listener.
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "inner", Net: "unix"} }
