package directory

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"

	"mailferry/backend"
)

// Step is one question of a lookup and its answer, in words for people.
type Step struct{ Asked, Answered string }

type traceKey struct{}

// WithTrace has lookups with this context tell fn every question that is asked
// and what was answered, secrets apart, from the caller's goroutine.
func WithTrace(ctx context.Context, fn func(Step)) context.Context {
	return context.WithValue(ctx, traceKey{}, fn)
}

// tracing reports whether anybody listens: what is told may cost something.
func tracing(ctx context.Context) bool { return ctx.Value(traceKey{}) != nil }

func trace(ctx context.Context, asked, format string, args ...any) {
	if fn, ok := ctx.Value(traceKey{}).(func(Step)); ok {
		fn(Step{asked, fmt.Sprintf(format, args...)})
	}
}

// traceSearch tells of one search at one server.
func (d *LDAP) traceSearch(ctx context.Context, server string, req *ldap.SearchRequest, found []*ldap.Entry, err error) {
	if !tracing(ctx) {
		return
	}
	asked := fmt.Sprintf("%s: search below %q for %s", server, req.BaseDN, req.Filter)
	switch {
	case err != nil:
		trace(ctx, asked, "%v", err)
	case len(found) == 0:
		trace(ctx, asked, "no entry")
	}
	for _, in := range found {
		var b strings.Builder
		fmt.Fprintf(&b, "entry %s", in.DN)
		for _, a := range in.Attributes {
			fmt.Fprintf(&b, "; %s: %s", a.Name, strings.Join(a.Values, ", "))
		}
		trace(ctx, asked, "%s", b.String())
	}
}

// traceServers tells which servers are left alone.
func (d *LDAP) traceServers(ctx context.Context) {
	if !tracing(ctx) {
		return
	}
	for _, s := range d.servers {
		if !s.up() {
			trace(ctx, s.url, "is down, others are asked first: %v", s.lastError())
		}
	}
}

// asked is a request of auth_http in words.
func asked(d *HTTP, method, user string) string {
	return fmt.Sprintf("GET %s, Auth-Method: %s, Auth-User: %s", d.o.URL, method, escape(user))
}

// traceAnswer tells the headers that make the route; others may hold secrets.
func (d *HTTP) traceAnswer(ctx context.Context, asked string, res *http.Response) {
	if !tracing(ctx) {
		return
	}
	answer := res.Status
	for _, h := range []string{"Auth-Status", "Auth-Server", "Auth-Port", "Auth-User", "Auth-Wait", "Auth-Error-Code"} {
		if v := res.Header.Get(h); v != "" {
			answer += fmt.Sprintf("; %s: %s", h, v)
		}
	}
	trace(ctx, asked, "%s", answer)
}

// Explanation is how a Chain comes to an answer.
type Explanation struct {
	Steps []Step
	Entry backend.Entry
	Err   error // as a login would see it now
	// Down says what a login would see if no directory answered from now on.
	Down string
}

// Explain looks a name up as a login does, and asks the directories in any
// case, so that what is remembered can be compared with what is there. Nothing
// is remembered of it.
func (c *Chain) Explain(ctx context.Context, name string) Explanation {
	x := Explanation{}
	ctx, cancel := context.WithTimeout(ctx, 2*lookupLimit)
	defer cancel()
	ctx = WithTrace(ctx, func(s Step) { x.Steps = append(x.Steps, s) })
	if !validName(name) {
		x.Err = notFound(c.Name(), name)
		trace(ctx, "name", "nobody can have it: empty, too long, or with control characters or stray spaces")
		x.Down = "the same"
		return x
	}
	old, known, _ := c.cache.get(name)
	trace(ctx, "cache", "%s", c.remembered(old, known))
	var from backend.Directory
	for _, d := range c.o.Directories {
		e, err := Fresh(ctx, d, name)
		err = classified(d.Name(), err)
		if backend.IsKind(err, backend.KindNotFound) {
			trace(ctx, "directory "+d.Name(), "does not know %q, so the next one is asked", name)
			x.Err = err
			continue
		}
		x.Entry, x.Err, from = e, err, d
		break
	}
	switch {
	case from == nil:
		trace(ctx, "directories", "none knows %q", name)
	case x.Err != nil:
		trace(ctx, "directory "+from.Name(), "ends the search: %v", x.Err)
	}
	x.Down = c.down(ctx, name, from, &old, known)
	// What a login gets now may be what is remembered.
	if x.Err != nil && !backend.IsKind(x.Err, backend.KindNotFound) && known && old.err == nil && time.Since(old.at) < c.o.StaleFor {
		x.Entry, x.Err = old.entry, nil
		trace(ctx, "cache", "stands in for the directory")
	}
	return x
}

// remembered says what the cache knows of a name.
func (c *Chain) remembered(v cached, known bool) string {
	age := time.Since(v.at)
	switch {
	case !known:
		return "nothing is remembered of this name"
	case v.err != nil && age < c.o.NegativeTTL:
		return fmt.Sprintf("unknown since %s ago, believed for %s more", round(age), round(c.o.NegativeTTL-age))
	case v.err != nil:
		return fmt.Sprintf("was unknown %s ago, to be asked again", round(age))
	case age < c.o.TTL:
		return fmt.Sprintf("user %s, store %s, %s old; serves for %s more", v.entry.User, orNone(v.entry.Store), round(age), round(c.o.TTL-age))
	case age < c.o.StaleFor:
		return fmt.Sprintf("user %s, store %s, %s old: to be asked again, stands in for %s more when the directory is away",
			v.entry.User, orNone(v.entry.Store), round(age), round(c.o.StaleFor-age))
	}
	return fmt.Sprintf("an answer of %s ago, too old to be used", round(age))
}

// standIn is a directory that can answer while its servers are away.
type standIn interface {
	// whileDown says what would be answered and for how long; empty: nothing.
	// needs: it asks a server at all.
	whileDown(ctx context.Context, name string) (text string, needs bool)
}

// down says what would be answered if no directory answered.
func (c *Chain) down(ctx context.Context, name string, from backend.Directory, old *cached, known bool) string {
	ctx = context.WithoutCancel(ctx)
	ctx = context.WithValue(ctx, traceKey{}, nil)
	age := time.Since(old.at)
	if known && old.err == nil && age < c.o.StaleFor {
		return fmt.Sprintf("from the cache: user %s, store %s, for %s more", old.entry.User, orNone(old.entry.Store), round(c.o.StaleFor-age))
	}
	for _, d := range c.o.Directories {
		if s, ok := d.(standIn); ok {
			if text, needs := s.whileDown(ctx, name); text != "" {
				return text
			} else if needs {
				return "temporary failure: nothing is remembered of this name"
			}
		}
		if d == from {
			break // it needs no server
		}
	}
	return "the same: the directory that answers needs no server"
}

// whileDown implements standIn.
func (d *LDAP) whileDown(context.Context, string) (string, bool) { return "", true }

// whileDown implements standIn.
func (d *HTTP) whileDown(context.Context, string) (string, bool) { return "", true }

// whileDown implements standIn.
func (r *Replica) whileDown(ctx context.Context, name string) (string, bool) {
	ctx, cancel := context.WithCancel(ctx)
	cancel() // nothing is to be asked
	e, err, _ := r.recall(ctx, name)
	if err != nil || e.User == "" || !r.fresh() {
		return "", true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return fmt.Sprintf("from the replica: user %s, store %s, for %s more", e.User, orNone(e.Store), round(r.o.Stale-r.now().Sub(r.head.Contact))), true
}

// whileDown implements standIn; what is behind names decides.
func (n *Names) whileDown(ctx context.Context, name string) (string, bool) {
	if s, ok := n.inner.(standIn); ok {
		return s.whileDown(ctx, n.key(name))
	}
	return "", false
}

// state says how a copy is kept.
func (r *Replica) state() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.head.Complete.IsZero():
		return "not complete yet"
	case r.live:
		return fmt.Sprintf("%d users, complete since %s ago, changes flow in", len(r.table.rows), round(r.now().Sub(r.head.Complete)))
	}
	return fmt.Sprintf("%d users, last contact %s ago", len(r.table.rows), round(r.now().Sub(r.head.Contact)))
}

func round(d time.Duration) time.Duration { return d.Round(time.Second) }

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}
