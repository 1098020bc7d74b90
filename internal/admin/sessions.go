package admin

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"mailferry/backend"
)

// Session is a client's connection to this node's proxy.
type Session struct {
	ID       string    `json:"id"`
	Protocol string    `json:"protocol"`
	User     string    `json:"user,omitempty"` // empty for mail servers
	Client   string    `json:"client"`
	TLS      string    `json:"tls,omitempty"` // version, empty without
	Store    string    `json:"store,omitempty"`
	Host     string    `json:"host,omitempty"` // of the store, where it serves any
	State    string    `json:"state"`
	Since    time.Time `json:"since"`
	Active   time.Time `json:"active"` // when the client last sent something
}

// SessionFilter means the sessions that fit every field that is set.
type SessionFilter struct {
	User     string // any name of the user
	Client   string // address, or network as 192.0.2.0/24
	Session  string // id
	Store    string
	Protocol string
}

// Network is what Client says; the zero value is any.
func (f *SessionFilter) Network() (netip.Prefix, error) {
	if f.Client == "" {
		return netip.Prefix{}, nil
	}
	if a, err := netip.ParseAddr(f.Client); err == nil {
		a = a.Unmap().WithZone("")
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(f.Client)
	if err != nil {
		return p, backend.NewError(backend.KindInvalid, f.Client+" is neither an address nor a network (192.0.2.0/24)")
	}
	return p.Masked(), nil
}

func (f *SessionFilter) query() string {
	q := url.Values{}
	for key, value := range map[string]string{"user": f.User, "client": f.Client, "session": f.Session, "store": f.Store, "protocol": f.Protocol} {
		if value != "" {
			q.Set(key, value)
		}
	}
	return q.Encode()
}

func filterOf(r *http.Request) SessionFilter {
	return SessionFilter{User: r.FormValue("user"), Client: r.FormValue("client"), Session: r.FormValue("session"),
		Store: r.FormValue("store"), Protocol: r.FormValue("protocol")}
}

// Drain is the emptying of a store, or of the node.
type Drain struct {
	Store string    `json:"store,omitempty"` // empty: the node
	Rate  float64   `json:"rate"`            // sessions a second
	Since time.Time `json:"since"`
	Asked int       `json:"asked"` // sessions that were asked to leave
	Left  int       `json:"left"`  // sessions that are there
}

// Sessions shows and ends the connections of the proxy.
type Sessions interface {
	Sessions(ctx context.Context, f SessionFilter) ([]Session, error)
	// Kick ends sessions at their next command boundary and says how many.
	// KindInvalid: the filter means everybody.
	Kick(ctx context.Context, f SessionFilter) (int, error)
	// Drain lets nobody new go to a store (empty: to the node), and ends rate
	// sessions a second, each at a command boundary, until StopDrain. Again: it
	// changes the rate.
	Drain(ctx context.Context, store string, rate float64) error
	Drains(ctx context.Context) ([]Drain, error)
	// StopDrain: KindNotFound when no such drain runs.
	StopDrain(ctx context.Context, store string) error
}

// Kicked is the answer to a kick.
type Kicked struct {
	Sessions int `json:"sessions"`
}

func (s *Service) sessionRequests(handle register) {
	sessions := func(fn func(Sessions, *http.Request) (any, error)) func(*http.Request) (any, error) {
		return func(r *http.Request) (any, error) {
			if s.Sessions == nil {
				return nil, missing("proxy")
			}
			return fn(s.Sessions, r)
		}
	}
	kick := func(p Sessions, r *http.Request, f SessionFilter) (any, error) {
		if f == (SessionFilter{}) {
			return nil, backend.NewError(backend.KindInvalid, "say whose sessions are to end; all of them end by a drain of the node")
		}
		n, err := p.Kick(r.Context(), f)
		return Kicked{Sessions: n}, err
	}
	handle("GET /v1/sessions", sessions(func(p Sessions, r *http.Request) (any, error) {
		return list(p.Sessions(r.Context(), filterOf(r)))
	}))
	handle("DELETE /v1/sessions", sessions(func(p Sessions, r *http.Request) (any, error) { return kick(p, r, filterOf(r)) }))
	handle("DELETE /v1/sessions/{user}", sessions(func(p Sessions, r *http.Request) (any, error) {
		return kick(p, r, SessionFilter{User: r.PathValue("user")})
	}))
	handle("GET /v1/drains", sessions(func(p Sessions, r *http.Request) (any, error) { return list(p.Drains(r.Context())) }))
	handle("POST /v1/drains", sessions(func(p Sessions, r *http.Request) (any, error) {
		d, err := body[Drain](r)
		if err != nil {
			return nil, err
		}
		return nil, p.Drain(r.Context(), d.Store, d.Rate)
	}))
	handle("DELETE /v1/drains", sessions(func(p Sessions, r *http.Request) (any, error) {
		return nil, p.StopDrain(r.Context(), r.FormValue("store"))
	}))
}

// Sessions implements Sessions.
func (c *Client) Sessions(ctx context.Context, f SessionFilter) ([]Session, error) {
	var l []Session
	err := c.do(ctx, http.MethodGet, "/v1/sessions?"+f.query(), nil, &l)
	return l, err
}

// Kick implements Sessions.
func (c *Client) Kick(ctx context.Context, f SessionFilter) (int, error) {
	var k Kicked
	err := c.do(ctx, http.MethodDelete, "/v1/sessions?"+f.query(), nil, &k)
	return k.Sessions, err
}

// Drain implements Sessions.
func (c *Client) Drain(ctx context.Context, store string, rate float64) error {
	return c.do(ctx, http.MethodPost, "/v1/drains", Drain{Store: store, Rate: rate}, nil)
}

// Drains implements Sessions.
func (c *Client) Drains(ctx context.Context) ([]Drain, error) {
	return get[[]Drain](ctx, c, "/v1/drains")
}

// StopDrain implements Sessions.
func (c *Client) StopDrain(ctx context.Context, store string) error {
	return c.do(ctx, http.MethodDelete, "/v1/drains?store="+url.QueryEscape(store), nil, nil)
}
