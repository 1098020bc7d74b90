package remote

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
)

// ProgressTimeout is how long a Client waits for the next octets of the store.
// A listing of a million messages may take a while to begin; one that has begun
// keeps coming.
const ProgressTimeout = 60 * time.Second

// Client is a tolerant IMAP client for reading accounts. A response that makes
// no sense costs itself, never the connection; it is counted (Anomalies). A
// Client is used by one goroutine at a time. After an error of the connection,
// a context's end, or an error of a callback it is broken: every later call
// fails with the same error.
type Client struct {
	// Throttled, if set, is told of untagged responses with the code THROTTLED, which
	// refuse nothing: the store asks for less. It is called while a response is read.
	Throttled func(text string)

	conn     *IMAPConn
	profile  Profile
	selected *Selected
	enabled  map[string]bool

	ahead     ahead
	flags     flagTable
	broken    error
	bye       *response
	anomalies int
	alerts    []string
	contentID []byte // of the FETCH that is read
	askIDs    bool   // with bodies; as the last FetchBodies was told
}

// NewClient takes c over.
func NewClient(c *IMAPConn) *Client {
	c.link.setTimeout(ProgressTimeout)
	c.scan.grow()
	c.w = bufio.NewWriter(c.link)
	return &Client{conn: c, profile: ProfileOf(c.target.Store.Type), enabled: map[string]bool{}}
}

// SetProgressTimeout replaces ProgressTimeout.
func (c *Client) SetProgressTimeout(d time.Duration) { c.conn.link.setTimeout(d) }

// Has reports whether the store announces a capability that its profile does
// not know to be broken.
func (c *Client) Has(name string) bool {
	return c.conn.Has(name) && !c.profile.distrusts(name)
}

// Profile is what is known of the store's kind.
func (c *Client) Profile() Profile { return c.profile }

// Anomalies counts responses that made no sense and were skipped.
func (c *Client) Anomalies() int { return c.anomalies }

// Alerts are the texts that the store wants a human to read (RFC 9051 7.1), at
// most a few.
func (c *Client) Alerts() []string { return c.alerts }

// Close drops the connection.
func (c *Client) Close() error {
	if c.broken == nil {
		c.broken = errors.New("client closed")
	}
	return c.conn.Close()
}

// Logout says LOGOUT and closes without awaiting the answer.
func (c *Client) Logout() error {
	if c.broken == nil {
		_ = c.conn.send(c.conn.nextTag() + " LOGOUT\r\n")
	}
	return c.Close()
}

// part is a piece of a command: text, or a string that may need a literal.
type part struct {
	s   string
	arg bool
}

type command []part

func text(s string) part { return part{s: s} }

// wire is a string argument in the store's own octets.
func wire(s string) part { return part{s: s, arg: true} }

// how a handler left the line of its response.
type lineState int

const (
	lineUnknown lineState = iota // not the handler's: the default applies
	lineOpen                     // something may be left up to the line's end
	lineRead                     // read whole
)

type handler func(response) (lineState, error)

// StatusError is a command that the store answered with NO or BAD.
type StatusError struct {
	Command, Status, Code, Text string
}

func (e *StatusError) Error() string {
	if e.Code != "" {
		return fmt.Sprintf("%s: %s [%s] %s", e.Command, e.Status, e.Code, e.Text)
	}
	return fmt.Sprintf("%s: %s %s", e.Command, e.Status, e.Text)
}

// flight are commands that were sent and not yet answered.
type flight struct {
	waiting map[string]int // by tag
	answers []response
	done    func(i int, r response) error // told each answer as it comes, in the order of sending; may be nil
}

func (f *flight) take(r response) error {
	i, ok := f.waiting[r.tag]
	if !ok {
		return nil
	}
	delete(f.waiting, r.tag)
	f.answers[i] = r
	if f.done == nil {
		return nil
	}
	return f.done(i, r)
}

// run sends cmds without waiting in between and reads until all are answered.
// It returns their tagged responses in the order of cmds; NO and BAD are no
// errors here.
func (c *Client) run(ctx context.Context, on handler, cmds ...command) ([]response, error) {
	return c.runEach(ctx, on, nil, cmds...)
}

// runEach is run, and tells done about each answer as it comes.
func (c *Client) runEach(ctx context.Context, on handler, done func(i int, r response) error, cmds ...command) ([]response, error) {
	if c.broken != nil {
		return nil, c.broken
	}
	defer c.conn.link.watch(ctx)()
	if err := c.settle(ctx); err != nil {
		return nil, err
	}
	f := &flight{waiting: make(map[string]int, len(cmds)), answers: make([]response, len(cmds)), done: done}
	for i, cmd := range cmds {
		tag := c.conn.nextTag()
		f.waiting[tag] = i
		if err := c.write(tag, cmd, on, f); err != nil {
			return nil, c.fail(ctx, err)
		}
	}
	if err := c.conn.w.Flush(); err != nil {
		return nil, c.fail(ctx, err)
	}
	c.conn.sent = time.Now()
	for len(f.waiting) > 0 {
		r, err := c.next(on)
		if err == nil && len(f.waiting) == len(cmds) {
			c.conn.answered() // the first of them waits for nothing but the line and itself
		}
		if err == nil {
			c.ahead.answered(r.tag)
			err = f.take(r)
		}
		if err != nil {
			return nil, c.fail(ctx, err)
		}
	}
	return f.answers, nil
}

// one runs a single command; NO and BAD are a StatusError.
func (c *Client) one(ctx context.Context, on handler, cmd command) (response, error) {
	rs, err := c.run(ctx, on, cmd)
	if err != nil {
		return response{}, err
	}
	return rs[0], statusOf(cmd, rs[0])
}

func statusOf(cmd command, r response) error {
	if r.name == "OK" {
		return nil
	}
	name, _, _ := strings.Cut(cmd[0].s, " ")
	return statusError(name, r)
}

// notConnected is how Exchange says, to a session that it let in, that it has
// too many.
const notConnected = "authenticated but not connected"

// statusError gives a refused command a kind after its code (RFC 5530).
func statusError(name string, r response) error {
	err := &StatusError{Command: name, Status: r.name, Code: r.code, Text: r.text}
	kind := backend.KindInvalid
	switch r.code {
	case "NONEXISTENT", "TRYCREATE":
		kind = backend.KindNotFound
	case "ALREADYEXISTS":
		kind = backend.KindExists
	case "NOPERM":
		kind = backend.KindPermission
	case "UNAVAILABLE", "INUSE", "LIMIT", "THROTTLED", "SERVERBUG", "EXPUNGEISSUED":
		kind = backend.KindTemporary
	case "":
		if strings.Contains(r.text, notConnected) {
			kind = backend.KindTemporary
		}
	}
	return &backend.Error{Kind: kind, Text: "The mail store refused a command.", Err: err}
}

// write buffers a command. A literal that needs the store's consent is awaited,
// and what arrives meanwhile is handled.
func (c *Client) write(tag string, cmd command, on handler, f *flight) error {
	w := c.conn.w
	_, _ = w.WriteString(tag + " ")
	for _, p := range cmd {
		switch {
		case !p.arg:
			_, _ = w.WriteString(p.s)
		case quotable(p.s):
			_, _ = w.WriteString(quote(p.s))
		case c.conn.Has("LITERAL+"):
			fmt.Fprintf(w, "{%d+}\r\n%s", len(p.s), p.s)
		default:
			fmt.Fprintf(w, "{%d}\r\n", len(p.s))
			if ok, err := c.consent(tag, on, f); err != nil || !ok {
				return err // refused: the tagged response is taken
			}
			_, _ = w.WriteString(p.s)
		}
	}
	_, err := w.WriteString("\r\n")
	return err
}

// consent waits for a continuation request; false when the command was
// answered instead.
func (c *Client) consent(tag string, on handler, f *flight) (bool, error) {
	if err := c.conn.w.Flush(); err != nil {
		return false, err
	}
	for {
		r, err := c.next(on)
		if err != nil {
			return false, err
		}
		if r.tag == "+" {
			return true, nil
		}
		if err := f.take(r); err != nil {
			return false, err
		}
		if r.tag == tag {
			return false, nil
		}
	}
}

// next reads responses up to a tagged one or a continuation request.
func (c *Client) next(on handler) (response, error) {
	for {
		r, err := c.conn.scan.response()
		if err != nil {
			return r, c.goodbye(err)
		}
		if r.tag != "*" && r.status() && r.name != "OK" && c.bye != nil {
			return r, c.goodbye(fmt.Errorf("%s %s", r.name, r.text)) // the goodbye says why
		}
		if r.tag == "+" || r.tag != "*" && r.status() {
			return r, nil
		}
		if err := c.dispatch(r, on); err != nil {
			return r, err
		}
	}
}

// dispatch hands a response to on, or to the default; whatever they make of
// it, the scanner ends behind its line.
func (c *Client) dispatch(r response, on handler) error {
	if r.name == "" {
		c.anomalies++
		return nil
	}
	if r.tag != "*" { // rubbish, or a tag without a status
		c.anomalies++
		return c.conn.scan.skipLine()
	}
	state := lineUnknown
	var err error
	if on != nil {
		state, err = on(r)
	}
	if state == lineUnknown && err == nil {
		state, err = c.unsolicited(r)
	}
	if err != nil && !isSyntax(err) {
		return err
	}
	if err != nil {
		c.anomalies++
	}
	if state == lineRead || r.status() {
		return nil
	}
	return c.conn.scan.skipLine()
}

// unsolicited is what applies to responses that nobody waits for.
func (c *Client) unsolicited(r response) (lineState, error) {
	if r.status() {
		c.conn.notice(r)
		if r.name == "BYE" {
			c.bye = &r
		}
		if r.code == "THROTTLED" && c.Throttled != nil {
			c.Throttled(r.text)
		}
		if r.code == "ALERT" && len(c.alerts) < 8 {
			c.alerts = append(c.alerts, r.text)
		}
		return lineRead, nil
	}
	switch r.name {
	case "CAPABILITY":
		list, err := c.conn.scan.text()
		if err == nil {
			c.conn.setCaps(list)
		}
		return lineRead, err
	case "EXISTS":
		if c.selected != nil {
			c.selected.Exists = r.num
		}
	case "EXPUNGE":
		if c.selected != nil && c.selected.Exists > 0 {
			c.selected.Exists--
		}
	case "VANISHED": // takes EXPUNGE's place once QRESYNC is enabled
		_, _, err := c.vanished()
		return lineOpen, err
	}
	return lineOpen, nil
}

// goodbye explains a lost connection by the BYE that came before it.
func (c *Client) goodbye(err error) error {
	if c.bye == nil {
		return err
	}
	return refused(*c.bye, fmt.Errorf("BYE [%s] %s: %w", c.bye.code, c.bye.text, err))
}

// fail breaks the client.
func (c *Client) fail(ctx context.Context, err error) error {
	err = cause(ctx, err)
	if backend.KindOf(err) == backend.KindBug && ctx.Err() == nil {
		err = c.conn.target.unavailable(backend.IMAP, "session", err)
	}
	c.broken = err
	c.conn.Close()
	return err
}

// Enable is ENABLE (RFC 5161); asked for twice it does nothing.
func (c *Client) Enable(ctx context.Context, name string) error {
	if c.enabled[name] {
		return nil
	}
	_, err := c.one(ctx, nil, command{text("ENABLE " + name)})
	if err == nil {
		c.enabled[name] = true
	}
	return err
}

// Noop lets the store report what changed.
func (c *Client) Noop(ctx context.Context) error {
	_, err := c.one(ctx, nil, command{text("NOOP")})
	return err
}

// flagTable shares equal flag lists: most messages of a mailbox have one of a
// few. Lists handed out are read-only.
type flagTable struct {
	lists map[string][]imap.Flag
}

// maxFlagLists bounds the table; a mailbox beyond it pays with garbage.
const maxFlagLists = 4096
