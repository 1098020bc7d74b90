package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"mailferry/backend"
)

// Explanation is how a name becomes a route, step by step.
type Explanation struct {
	Name  string `json:"name"`
	Steps []Step `json:"steps"`

	User      string `json:"user,omitempty"` // canonical
	Directory string `json:"directory,omitempty"`
	ID        string `json:"id,omitempty"` // the directory's handle
	Disabled  bool   `json:"disabled,omitempty"`
	Store     string `json:"store,omitempty"`
	// Decided names what chose the store: directory or placement.
	Decided string `json:"decided,omitempty"`
	// Ways are the connections that a login by each protocol opens.
	Ways []Way `json:"ways,omitempty"`
	// Route is the result in one line, empty when there is none.
	Route string `json:"route,omitempty"`
	// Error says why there is no route.
	Error string `json:"error,omitempty"`
	// Down says what a login would see if the directories did not answer.
	Down string `json:"directory_down"`
}

// Step is one question and its answer.
type Step struct {
	Asked    string `json:"asked"`
	Answered string `json:"answered"`
}

// Way is how a protocol reaches the store.
type Way struct {
	Protocol string `json:"protocol"`
	Address  string `json:"address"` // host:port, or "in process"
	TLS      string `json:"tls,omitempty"`
	Login    string `json:"login,omitempty"`  // how the store is logged in to
	Denied   string `json:"denied,omitempty"` // why the user may not
}

// RouteCheck asks for a comparison of routes with where mailboxes are.
type RouteCheck struct {
	Users    []string `json:"users,omitempty"`    // empty: all that the directories list
	Where    string   `json:"where,omitempty"`    // in the directory's own language
	Parallel int      `json:"parallel,omitempty"` // 0: 8
}

// Verdicts on a route, the closed list. Right: the mailbox is where the route
// leads, or nowhere yet. The others are differences, apart from VerdictUnknown:
// that could not be found out.
const (
	VerdictRight     = "right"
	VerdictMissing   = "missing"   // no mailbox where the route leads; mail is elsewhere
	VerdictTwice     = "twice"     // mail at another store as well, and no migration says why
	VerdictUnrouted  = "unrouted"  // the directory names no store, or none that is configured
	VerdictAmbiguous = "ambiguous" // the directory refuses the user
	VerdictNowhere   = "nowhere"   // no store of the group has a mailbox
	VerdictUnknown   = "unknown"
)

// RouteVerdict is the verdict on one user's route.
type RouteVerdict struct {
	User      string  `json:"user"`
	Directory string  `json:"directory,omitempty"`
	Store     string  `json:"store,omitempty"` // where the route leads
	Placed    bool    `json:"placed"`          // a migration decided
	Verdict   string  `json:"verdict"`
	Text      string  `json:"text,omitempty"` // why
	Found     []Found `json:"found,omitempty"`
}

// Found is what a store says of a user's mailbox.
type Found struct {
	Store     string `json:"store"`
	There     bool   `json:"there"`
	Mailboxes int    `json:"mailboxes"`
	Messages  int64  `json:"messages"`
	Error     string `json:"error,omitempty"` // what went wrong
	// Refused: the store refused the login, as it does for users it has not.
	Refused bool `json:"refused,omitempty"`
}

// Routes tells how users are routed.
type Routes interface {
	Explain(ctx context.Context, name string) (Explanation, error)
	Placements(ctx context.Context) ([]backend.Placement, error)
	// VerifyRoutes calls fn with the verdict on each route, one at a time, in no
	// order. An error of fn, or of the listing of users, ends it.
	VerifyRoutes(ctx context.Context, r RouteCheck, fn func(RouteVerdict) error) error
}

func (s *Service) routeRequests(handle register) {
	handle("GET /v1/explain/{name}", func(r *http.Request) (any, error) {
		return s.Routes.Explain(r.Context(), r.PathValue("name"))
	})
	handle("GET /v1/placements", func(r *http.Request) (any, error) { return list(s.Routes.Placements(r.Context())) })
}

// verdictLine is a line of the answer to verify-routes: a verdict, or the error
// that ended it, or, as the last line, that all is said.
type verdictLine struct {
	*RouteVerdict
	Failed *apiError `json:"failed,omitempty"`
	End    bool      `json:"end,omitempty"`
}

// verifyRoutes streams verdicts as JSON lines.
func (s *Service) verifyRoutes(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
	check, err := body[RouteCheck](r)
	if err != nil {
		writeError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/jsonl")
	flush, encoder := http.NewResponseController(w), json.NewEncoder(w)
	say := func(l verdictLine) error {
		if err := encoder.Encode(l); err != nil {
			return err
		}
		return flush.Flush()
	}
	err = s.Routes.VerifyRoutes(r.Context(), check, func(v RouteVerdict) error { return say(verdictLine{RouteVerdict: &v}) })
	last := verdictLine{End: true}
	if err != nil {
		last = verdictLine{Failed: &apiError{Text: err.Error(), Kind: backend.KindOf(err).String(), Hint: HintOf(err)}}
	}
	_ = say(last) // the client may be gone
}

// Explain implements Routes.
func (c *Client) Explain(ctx context.Context, name string) (Explanation, error) {
	return get[Explanation](ctx, c, "/v1/explain/%s", name)
}

// Placements implements Routes.
func (c *Client) Placements(ctx context.Context) ([]backend.Placement, error) {
	return get[[]backend.Placement](ctx, c, "/v1/placements")
}

// VerifyRoutes implements Routes. A stream that ends early is KindUnavailable.
func (c *Client) VerifyRoutes(ctx context.Context, r RouteCheck, fn func(RouteVerdict) error) error {
	resp, err := c.send(ctx, http.MethodPost, "/v1/verify-routes", r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for d := json.NewDecoder(resp.Body); ; {
		l := verdictLine{RouteVerdict: &RouteVerdict{}}
		err := d.Decode(&l)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, io.EOF):
			return backend.NewError(backend.KindUnavailable, "the node stopped in the middle")
		case err != nil:
			return backend.Errorf(backend.KindUnavailable, "", "the node stopped in the middle: %w", err)
		case l.Failed != nil:
			return WithHint(backend.NewError(kindNamed(l.Failed.Kind), l.Failed.Text), l.Failed.Hint)
		case l.End:
			return nil
		}
		if err := fn(*l.RouteVerdict); err != nil {
			return err
		}
	}
}
