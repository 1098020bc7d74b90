package mailtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/textproto"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// DelivererOptions describes a stream of deliveries by LMTP.
type DelivererOptions struct {
	Addr       string
	Recipients []string
	PerSecond  float64       // per recipient; default 5
	Mail       *Mail         // texts; default Generated
	From       string        // default sender@example.org
	Limit      time.Duration // for each answer; default 60 s
	RetryAfter time.Duration // after a temporary failure; default 100 ms
	FinishIn   time.Duration // how long Stop lets retries go on; default 60 s
}

// Delivery is one message to one recipient.
type Delivery struct {
	Recipient string
	MessageID string // unique; also in X-Delivery
	First     time.Time
	Acked     time.Time // 250 after DATA; zero: never
	Tries     int
	TempFails int    // 4xx and lost connections
	Uncertain int    // of these: the connection was lost after DATA was sent, so that the store may have it
	Last      string // the last answer
	Failed    bool   // refused for good with 5xx
}

// Deliverer delivers messages with unique ids at a steady rate, each recipient
// on a connection of its own, and tries again what failed for now. It keeps a
// journal of what was promised.
type Deliverer struct {
	o        DelivererOptions
	ctx      context.Context // over: give up
	cancel   context.CancelFunc
	stopping chan struct{}
	stopOnce sync.Once
	wg       sync.WaitGroup
	run      string // part of the ids

	mu      sync.Mutex
	changed chan struct{} // closed and renewed with each acknowledgement
	journal []Delivery
	acked   int
}

// StartDeliverer starts delivering; Stop ends it.
func StartDeliverer(t testing.TB, o DelivererOptions) *Deliverer {
	t.Helper()
	if o.PerSecond == 0 {
		o.PerSecond = 5
	}
	if o.Mail == nil {
		o.Mail = Generated(200)
	}
	o.From = orString(o.From, "sender@example.org")
	o.Limit, o.RetryAfter = orTime(o.Limit, time.Minute), orTime(o.RetryAfter, 100*time.Millisecond)
	o.FinishIn = orTime(o.FinishIn, time.Minute)
	d := &Deliverer{o: o, stopping: make(chan struct{}), changed: make(chan struct{}),
		run: fmt.Sprintf("%08x", rand.Uint32())}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	for i, rcpt := range o.Recipients {
		d.wg.Go(func() { d.serve(t, i, rcpt) })
	}
	t.Cleanup(func() { d.Stop() })
	return d
}

// Stop begins no further delivery, finishes those under way, and returns the
// journal in the order of each recipient's deliveries.
func (d *Deliverer) Stop() []Delivery {
	d.stopOnce.Do(func() {
		close(d.stopping)
		over := time.AfterFunc(d.o.FinishIn, d.cancel)
		d.wg.Wait()
		over.Stop()
		d.cancel()
	})
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.journal
}

// Acked is the number of acknowledged deliveries so far.
func (d *Deliverer) Acked() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.acked
}

// Await returns when n deliveries are acknowledged.
func (d *Deliverer) Await(t testing.TB, n int) {
	t.Helper()
	limit := time.After(d.o.FinishIn)
	for {
		d.mu.Lock()
		now, changed := d.acked, d.changed
		d.mu.Unlock()
		if now >= n {
			return
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("only %d deliveries of %d", now, n)
		}
	}
}

// serve delivers to one recipient until Stop.
func (d *Deliverer) serve(t testing.TB, worker int, rcpt string) {
	tick := time.NewTicker(time.Duration(float64(time.Second) / d.o.PerSecond))
	defer tick.Stop()
	var c *lmtpConn
	defer func() { c.quit() }()
	for n := 0; ; n++ {
		select {
		case <-d.stopping:
			return
		case <-tick.C:
		}
		id := fmt.Sprintf("<delivery.%d.%d.%s@mailferry.test>", worker, n, d.run)
		j := Delivery{Recipient: rcpt, MessageID: id, First: time.Now()}
		text := withID(d.o.Mail.Message(t, worker*7919+n), id, rcpt)
		d.deliver(&c, &j, text)
		d.mu.Lock()
		d.journal = append(d.journal, j)
		if !j.Acked.IsZero() {
			d.acked++
			close(d.changed)
			d.changed = make(chan struct{})
		}
		d.mu.Unlock()
	}
}

// deliver tries until an answer is final or the time is over.
func (d *Deliverer) deliver(c **lmtpConn, j *Delivery, text []byte) {
	for {
		j.Tries++
		sent, err := d.try(c, j.Recipient, text)
		if err == nil {
			j.Acked, j.Last = time.Now(), "250"
			return
		}
		j.Last = err.Error()
		var answer *textproto.Error
		switch {
		case !errors.As(err, &answer):
			(*c).drop()
			*c = nil
			if sent {
				j.Uncertain++
			}
		case answer.Code >= 500:
			j.Failed = true
			return
		}
		j.TempFails++
		wait := time.NewTimer(d.o.RetryAfter)
		select {
		case <-d.ctx.Done():
			wait.Stop()
			return
		case <-wait.C:
		}
	}
}

// try is one transaction; sent says that the whole message was on its way.
func (d *Deliverer) try(c **lmtpConn, rcpt string, text []byte) (sent bool, err error) {
	if *c == nil {
		if *c, err = dialLMTP(d.ctx, d.o.Addr, d.o.Limit); err != nil {
			return false, err
		}
	}
	return (*c).deliver(d.o.From, rcpt, text)
}

// lmtpConn is a plain LMTP client. Every answer has a deadline.
type lmtpConn struct {
	conn  net.Conn
	text  *textproto.Conn
	limit time.Duration
}

func dialLMTP(ctx context.Context, addr string, limit time.Duration) (*lmtpConn, error) {
	conn, err := (&net.Dialer{Timeout: limit}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &lmtpConn{conn: conn, text: textproto.NewConn(conn), limit: limit}
	if err = c.expect(220); err == nil {
		err = c.cmd(250, "LHLO client.example.org")
	}
	if err != nil {
		c.drop()
		return nil, err
	}
	return c, nil
}

func (c *lmtpConn) expect(code int) error {
	c.conn.SetDeadline(time.Now().Add(c.limit))
	_, _, err := c.text.ReadResponse(code)
	return err
}

func (c *lmtpConn) cmd(code int, format string, args ...any) error {
	c.conn.SetDeadline(time.Now().Add(c.limit))
	if err := c.text.PrintfLine(format, args...); err != nil {
		return err
	}
	return c.expect(code)
}

// deliver is one transaction. After a refusal the connection is reset.
func (c *lmtpConn) deliver(from, rcpt string, text []byte) (sent bool, err error) {
	if err = c.cmd(250, "MAIL FROM:<%s>", from); err == nil {
		err = c.cmd(250, "RCPT TO:<%s>", rcpt)
	}
	if err == nil {
		err = c.cmd(354, "DATA")
	}
	if err != nil {
		return false, c.reset(err)
	}
	w := c.text.DotWriter()
	if _, err := w.Write(text); err != nil {
		return false, err
	}
	if err := w.Close(); err != nil {
		return false, err
	}
	return true, c.expect(250)
}

// reset returns the refusal, or the failure of RSET after it.
func (c *lmtpConn) reset(refusal error) error {
	var answer *textproto.Error
	if errors.As(refusal, &answer) {
		if err := c.cmd(250, "RSET"); err != nil {
			return fmt.Errorf("after %v: connection: %v", refusal, err)
		}
	}
	return refusal
}

func (c *lmtpConn) drop() {
	if c != nil {
		c.conn.Close()
	}
}

func (c *lmtpConn) quit() {
	if c != nil {
		c.cmd(221, "QUIT")
		c.drop()
	}
}

// withID gives a message the id, and removes the one it had.
func withID(msg []byte, id, rcpt string) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "Message-ID: %s\r\nX-Delivery: %s\r\nX-Recipient: %s\r\n", id, id, rcpt)
	header, body, _ := strings.Cut(string(msg), "\r\n\r\n")
	skip := false
	for line := range strings.SplitSeq(header, "\r\n") {
		if folded := strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t"); !folded {
			skip = len(line) >= 11 && strings.EqualFold(line[:11], "Message-ID:")
		}
		if !skip && line != "" {
			b.WriteString(line + "\r\n")
		}
	}
	b.WriteString("\r\n" + body)
	return []byte(b.String())
}

var idInFetch = regexp.MustCompile(`(?i)Message-ID:[ \t]*(?:\r\n[ \t]+)?(<[^>\r\n]*>)`)

// Acknowledged lists the Message-IDs of the acknowledged deliveries.
func Acknowledged(journal []Delivery) []string {
	var ids []string
	for _, j := range journal {
		if !j.Acked.IsZero() {
			ids = append(ids, j.MessageID)
		}
	}
	return ids
}

// MessageIDs counts the Message-IDs of a mailbox, which c selects read-only.
func MessageIDs(t testing.TB, c *IMAPConn, mailbox string) map[string]int {
	t.Helper()
	found := map[string]int{}
	c.Cmd("EXAMINE %s", Quote(mailbox))
	if lines := c.Cmd("UID SEARCH ALL"); strings.Contains(strings.Join(lines[:len(lines)-1], "\n")+"\n", "SEARCH\n") {
		return found
	}
	for _, line := range c.Cmd("UID FETCH 1:* (UID BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])") {
		if m := idInFetch.FindStringSubmatch(line); m != nil {
			found[m[1]]++
		}
	}
	return found
}

// DeliveryFaults compares one recipient's journal with the ids found in the
// recipient's mailboxes: what was acknowledged is there once, or more often
// only as often as an answer was lost; what was not is there at most so often.
func DeliveryFaults(journal []Delivery, found map[string]int) []string {
	var faults []string
	for _, j := range journal {
		least, most := 0, j.Uncertain
		if !j.Acked.IsZero() {
			least, most = 1, 1+j.Uncertain
		}
		if n := found[j.MessageID]; n < least || n > most {
			faults = append(faults, fmt.Sprintf("%s to %s is there %d times, want %d to %d: %+v", j.MessageID, j.Recipient, n, least, most, j))
		}
	}
	return faults
}
