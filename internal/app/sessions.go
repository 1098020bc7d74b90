package app

import (
	"cmp"
	"context"
	"slices"

	"mailferry/backend"
	"mailferry/internal/admin"
	"mailferry/proxy"
)

// sessions are the proxy's clients as the admin API shows them.
type sessions struct {
	proxy *proxy.Proxy
	dirs  *directories
}

// match turns a filter into the proxy's terms. Any name of the user will do;
// one that no directory knows any more may still have sessions.
func (s sessions) match(ctx context.Context, f *admin.SessionFilter) (proxy.Match, error) {
	network, err := f.Network()
	if err != nil {
		return proxy.Match{}, err
	}
	m := proxy.Match{User: f.User, Session: f.Session, Store: f.Store, Protocol: f.Protocol, Client: network}
	if f.User != "" {
		if e, err := s.dirs.Lookup(ctx, f.User); err == nil {
			m.User = e.User
		}
	}
	return m, nil
}

// Sessions implements admin.Sessions: sorted by user, then by age.
func (s sessions) Sessions(ctx context.Context, f admin.SessionFilter) (list []admin.Session, err error) {
	m, err := s.match(ctx, &f)
	if err != nil {
		return nil, err
	}
	for _, i := range s.proxy.Sessions(m) {
		list = append(list, admin.Session{ID: i.ID, Protocol: string(i.Protocol), User: i.User, Client: i.Client, TLS: i.TLS,
			Store: i.Store, Host: i.Host, State: sessionState(&i), Since: i.Since, Active: i.Active})
	}
	slices.SortFunc(list, func(a, b admin.Session) int {
		return cmp.Or(cmp.Compare(a.User, b.User), a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID))
	})
	return list, nil
}

// sessionState is what a session does, in words.
func sessionState(i *proxy.SessionInfo) string {
	state := "authenticated"
	switch {
	case i.Protocol == backend.LMTP:
		state = "connected"
	case i.Mailbox != "":
		state = "selected " + i.Mailbox
	}
	switch {
	case i.Idle:
		state += ", idle"
	case i.Busy:
		state += ", busy"
	}
	if i.Held {
		state += ", on hold"
	}
	if i.Leaving {
		state += ", leaving"
	}
	if i.Unattachable != "" {
		state += ", not attachable: " + i.Unattachable
	}
	return state
}

// Kick implements admin.Sessions.
func (s sessions) Kick(ctx context.Context, f admin.SessionFilter) (int, error) {
	m, err := s.match(ctx, &f)
	if err != nil {
		return 0, err
	}
	return s.proxy.End(m), nil
}

// Drain implements admin.Sessions.
func (s sessions) Drain(_ context.Context, store string, rate float64) error {
	return s.proxy.Drain(store, rate)
}

// Drains implements admin.Sessions.
func (s sessions) Drains(context.Context) (list []admin.Drain, err error) {
	for _, d := range s.proxy.Drains() {
		list = append(list, admin.Drain(d))
	}
	return list, nil
}

// StopDrain implements admin.Sessions.
func (s sessions) StopDrain(_ context.Context, store string) error {
	if s.proxy.StopDrain(store) {
		return nil
	}
	return backend.NewError(backend.KindNotFound, "no such drain runs")
}
