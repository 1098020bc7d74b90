package app

import (
	"context"
	"fmt"
	"strings"
	"time"

	"mailferry/backend"
	"mailferry/internal/admin"
)

// routes answers the admin API's questions about routes.
type routes App

// Placements implements admin.Routes.
func (r *routes) Placements(ctx context.Context) ([]backend.Placement, error) {
	return r.places.All(ctx)
}

// Explain implements admin.Routes: the steps of a login, without a password.
func (r *routes) Explain(ctx context.Context, name string) (admin.Explanation, error) {
	e := admin.Explanation{Name: name}
	step := func(asked, format string, args ...any) {
		e.Steps = append(e.Steps, admin.Step{Asked: asked, Answered: fmt.Sprintf(format, args...)})
	}
	entry, err := r.dirs.Lookup(ctx, name)
	if err != nil {
		step("directories", "%v", err)
		e.Error = err.Error()
		return e, nil
	}
	step("directory "+entry.Directory, "%s", describeEntry(&entry))
	store := entry.Store
	p, ok, err := r.places.Placement(ctx, entry.User)
	switch {
	case err != nil:
		step("placement", "%v", err)
		e.Error = err.Error()
		return e, nil
	case !ok:
		step("placement", "none, so the directory decides")
	default:
		store = p.Store
		step("placement", "%s on %s, epoch %d%s", p.State, p.Store, p.Epoch, target(&p))
	}
	s, host, err := r.routes.Find(store)
	if err != nil {
		step("store "+store, "%v", err)
		e.Error = err.Error()
		return e, nil
	}
	if p.Host != "" && !s.Local() {
		host = p.Host
	}
	step("store "+store, "%s", describeStore(s, host))
	r.troubles(s.Name, step)
	e.Route = fmt.Sprintf("%s on %s", entry.User, describeStore(s, host))
	return e, nil
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
