package app

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"mailferry/backend"
	"mailferry/internal/admin"
	"mailferry/proxy"
)

// routes answers the admin API's questions about routes.
type routes App

// Placements implements admin.Routes.
func (r *routes) Placements(ctx context.Context) ([]backend.Placement, error) {
	return r.places.All(ctx)
}

// explainer collects the steps of a lookup.
type explainer struct {
	*routes
	admin.Explanation
}

func (x *explainer) step(asked, format string, args ...any) {
	x.Steps = append(x.Steps, admin.Step{Asked: asked, Answered: fmt.Sprintf(format, args...)})
}

// Explain implements admin.Routes: the steps of a login, without a password.
func (r *routes) Explain(ctx context.Context, name string) (admin.Explanation, error) {
	x := &explainer{r, admin.Explanation{Name: name}}
	if err := x.explain(ctx); err != nil {
		x.Error = err.Error()
	}
	return x.Explanation, nil
}

func (x *explainer) explain(ctx context.Context) error {
	found := x.dirs.explain(ctx, x.Name)
	for _, s := range found.Steps {
		x.step(s.Asked, "%s", s.Answered)
	}
	x.Down = found.Down
	if found.Err != nil {
		return found.Err
	}
	e := &found.Entry
	x.User, x.Directory, x.ID, x.Disabled = e.User, e.Directory, e.ID, e.Disabled
	x.step("directory "+e.Directory, "%s", describeEntry(e))
	route, placed, err := x.decide(ctx, e)
	if err != nil {
		return err
	}
	x.Store = route.Store.Name
	x.Ways = x.ways(&route)
	x.Route = fmt.Sprintf("%s on %s", e.User, describeStore(route.Store, route.Host))
	if placed && x.Down != "" && route.Store.Local() {
		x.Down += "; the placement decides the store as now"
	}
	if e.Disabled {
		return fmt.Errorf("the user is disabled: %s", orNothing(e.Reason))
	}
	return nil
}

func orNothing(s string) string {
	if s == "" {
		return "the directory says so"
	}
	return s
}

// decide finds the store that rules, and what decided that.
func (x *explainer) decide(ctx context.Context, e *backend.Entry) (route backend.Route, placed bool, err error) {
	p, placed, err := x.places.Placement(ctx, e.User)
	if err != nil {
		x.step("placement", "%v", err)
		return route, placed, err
	}
	name := e.Store
	x.Decided = "directory " + e.Directory
	if placed {
		x.Decided, name = "placement", p.Store
		x.step("placement", "%s on %s, epoch %d%s: it decides, whatever the directory says", p.State, p.Store, p.Epoch, target(&p))
	} else {
		x.step("placement", "none, so the directory decides")
	}
	if x.proxy != nil {
		route, err = x.proxy.Route(ctx, *e)
	} else {
		route, err = x.find(e, &p, placed)
	}
	if err != nil {
		x.step("store "+orDash(name), "%v", err)
		return route, placed, err
	}
	x.step("store "+name, "%s", describeStore(route.Store, route.Host))
	x.troubles(route.Store.Name, x.step)
	return route, placed, nil
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// find is the route on a node without a proxy.
func (r *routes) find(e *backend.Entry, p *backend.Placement, placed bool) (backend.Route, error) {
	name := e.Store
	if placed {
		name = p.Store
	}
	st, host, err := r.routes.Find(name)
	if err == nil && placed && p.Host != "" && !st.Local() {
		host = p.Host
	}
	return backend.Route{User: e.User, Store: st, Host: host, Entry: *e, Epoch: p.Epoch}, err
}

// ways are the connections that a route means, by protocol.
func (r *routes) ways(route *backend.Route) (ways []admin.Way) {
	for _, p := range []backend.Protocol{backend.IMAP, backend.POP3, backend.ManageSieve, backend.LMTP} {
		if name := string(p); p != backend.LMTP && len(r.listeners[name])+len(r.listeners[name+"s"]) == 0 {
			continue
		}
		w := admin.Way{Protocol: string(p)}
		if route.Store.Local() {
			if p == backend.ManageSieve {
				continue // it has none
			}
			w.Address = "in process"
		} else {
			st := route.Store
			w.Address = net.JoinHostPort(r.host(route, p), strconv.Itoa(proxy.PortOf(*route, p)))
			w.TLS, w.Login = string(st.TLSFor(p)), describeLogin(route)
			if p == backend.LMTP {
				w.Login = ""
			}
		}
		if !route.Entry.Allows(p) {
			w.Denied = "the directory does not grant it"
		}
		ways = append(ways, w)
	}
	return ways
}

// describeLogin says who logs in to the store.
func describeLogin(route *backend.Route) string {
	l := &route.Store.Login
	switch {
	case !route.Entry.CheckPassword:
		return "user " + route.User + " with the client's password, which the store checks"
	case l.Mode == backend.LoginAuthzid:
		return "admin " + l.User + " for " + route.User + " (authzid)"
	case l.Mode == backend.LoginMaster:
		sep := l.Separator
		if sep == "" {
			sep = "*"
		}
		return route.User + sep + l.User + " (master)"
	case l.Mode == backend.LoginProxyAuth:
		return "admin " + l.User + ", who becomes " + route.User + " by PROXYAUTH; POP3 and ManageSieve with the client's password"
	case l.Mode == backend.LoginOAuth:
		return "user " + route.User + " with a token of ours (OAuth)"
	case l.Mode == backend.LoginUser, l.Mode == "":
		return "user " + route.User + " with the client's password"
	}
	return string(l.Mode)
}

// host is where logins of p go now: at a store with several addresses the first
// that is not away.
func (r *routes) host(route *backend.Route, p backend.Protocol) string {
	if r.backends == nil {
		return route.Host
	}
	return r.backends.Where(*route, p)
}

// troubles says which services of a store have failed since they last worked.
func (r *routes) troubles(store string, step func(asked, format string, args ...any)) {
	if r.backends == nil {
		return
	}
	for _, h := range r.backends.Troubles() {
		if h.Store != store {
			continue
		}
		state := "has failed, and is tried by each login"
		if !h.Since.IsZero() {
			state = "is away since " + h.Since.Format(time.RFC3339) + ", and not dialled by logins"
		}
		step("health", "%s at %s:%d %s: %s", h.Protocol, h.Host, h.Port, state, h.Error)
	}
}

func target(p *backend.Placement) string {
	if p.Target == "" {
		return ""
	}
	return ", moving to " + p.Target
}

func describeEntry(e *backend.Entry) string {
	var b strings.Builder
	fmt.Fprintf(&b, "user %s", e.User)
	if e.ID != "" && e.ID != e.User {
		fmt.Fprintf(&b, " (%s)", e.ID)
	}
	if e.Store != "" {
		fmt.Fprintf(&b, ", store %s", e.Store)
	} else {
		b.WriteString(", no store")
	}
	if e.Host != "" {
		fmt.Fprintf(&b, ", host %s", e.Host)
	}
	if e.CheckPassword {
		b.WriteString(", the directory checks the password")
	} else {
		b.WriteString(", the store checks the password")
	}
	if e.Disabled {
		b.WriteString(", disabled")
	}
	return b.String()
}

func describeStore(s *backend.Store, host string) string {
	if s.Local() {
		return s.Name + " (our own store)"
	}
	return fmt.Sprintf("%s (%s at %s:%d, %s, login as %s)", s.Name, s.Type, host, s.Port(backend.IMAP), s.TLS, s.Login.Mode)
}
