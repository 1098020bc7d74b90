package remote

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"mailferry/backend"
)

// Learned is what logins at one host have shown, so that the next one to a host
// that is far away, and of a kind that allows it (Profile.Ahead), sends the first
// survey together with the login, and both take one round trip. A proxy in between
// may not allow it: then it ends. The zero value knows nothing. Safe for concurrent use; it is of
// one host.
type Learned struct {
	mu       sync.Mutex
	way      string   // how the login was told; empty: nothing is known
	caps     []string // as the login's OK announced them
	rtt      time.Duration
	proven   bool // the host has answered such a survey
	failures int
}

// maxHaste is how often a host may fail a survey that came with its login, before
// it gets no more of them. One that never answered any gets no second one.
const maxHaste = 3

// expect gives the capabilities that a login in this way will bring; ok is false
// where nothing may be sent with it.
func (l *Learned) expect(way string) (caps []string, ok bool) {
	if l == nil {
		return nil, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.caps, l.way == way && l.rtt >= FarAway && l.failures < maxHaste && (l.proven || l.failures == 0)
}

// note takes what a login brought. Only a host that announces its capabilities
// with the OK is known well enough.
func (l *Learned) note(way string, c *IMAPConn) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.way = ""; c.announced {
		l.way, l.caps, l.rtt = way, slices.Clone(c.caps), c.rtt
	}
}

// took tells whether a host answered a survey that came with its login. After
// one that it did not the next login goes alone.
func (l *Learned) took(ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ok {
		l.proven = true
		return
	}
	l.way = ""
	l.failures++
}

func (l *Learned) isProven() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.proven
}

// queued are the commands of a survey that went out with a login.
type queued struct {
	tags  []string
	early bool // one was answered before the login was
}

// queue appends a survey to the line of a login, where that may be.
func (c *IMAPConn) queue(way, line string, id identity) string {
	p := ProfileOf(c.target.Store.Type)
	caps, ok := c.target.Learned.expect(way)
	if !ok || !p.Ahead || id.proxyAuth != "" || c.target.Store.Compress == backend.CompressAlways {
		return line
	}
	q := &queued{}
	var b strings.Builder
	b.WriteString(line)
	for _, cmd := range surveyCommands(func(name string) bool { return slices.Contains(caps, name) && !p.distrusts(name) }) {
		tag := c.nextTag()
		q.tags = append(q.tags, tag)
		b.WriteString(tag + " " + cmd[0].s + "\r\n")
	}
	c.queued = q
	return b.String()
}

// loggedIn takes the end of a login that may have had a survey with it.
func (c *IMAPConn) loggedIn(ctx context.Context, way string, r response, err error) error {
	l := c.target.Learned
	switch {
	case c.queued == nil:
		if err == nil && r.name == "OK" {
			l.note(way, c)
		}
	case err == nil && r.name == "OK":
		if !c.announced { // it announced them before
			caps, _ := l.expect(way)
			c.setCaps(strings.Join(caps, " "))
		}
	case ctx.Err() != nil:
	case err != nil || r.name == "BAD":
		l.took(false)
	case !l.isProven() && backend.IsKind(c.loginRefused(r), backend.KindAuthentication):
		// It may be the haste that it does not like: the refusal counts when the
		// login comes alone.
		l.took(false)
		return c.target.unavailable(backend.IMAP, stepLogin, errLost)
	}
	return err
}

// errLost: a store did not take commands that went out with a login.
var errLost = errors.New("commands behind the login were not answered")

// Hasty reports whether the next Survey went out with the login. When it fails
// with an error of the connection another login is worth a try at once: it goes
// alone.
func (c *Client) Hasty() bool { return c.conn.queued != nil }

// takeQueued reads the survey that went out with the login; ok is false when the
// store refused a part of it, which is to be asked anew.
func (c *Client) takeQueued(ctx context.Context, on handler) (ok bool, err error) {
	q := c.conn.queued
	c.conn.queued = nil
	if c.broken != nil {
		return false, c.broken
	}
	ok, err = c.readQueued(ctx, q, on)
	if err == nil || ctx.Err() == nil {
		c.conn.target.Learned.took(ok)
	}
	if err != nil {
		return false, c.fail(ctx, err)
	}
	return ok, nil
}

func (c *Client) readQueued(ctx context.Context, q *queued, on handler) (ok bool, err error) {
	if q.early {
		return false, errLost
	}
	defer c.conn.link.watch(ctx)()
	if !c.conn.target.Learned.isProven() {
		defer c.conn.link.setTimeout(c.conn.link.setTimeout(loginFactor * c.conn.target.timeout()))
	}
	ok = true
	for _, tag := range q.tags { // stores answer in the order of sending
		r, err := c.next(on)
		if err != nil {
			return false, err
		}
		if r.tag != tag {
			return false, errLost
		}
		ok = ok && r.name == "OK"
	}
	return ok, nil
}
