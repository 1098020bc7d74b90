package admin

import (
	"context"
	"encoding/json"
	"net/http"

	"mailferry/backend"
)

func (s *Service) migrationRequests(handle register) {
	moves := func(fn func(Migrations, *http.Request) (any, error)) func(*http.Request) (any, error) {
		return func(r *http.Request) (any, error) {
			if s.Migrations == nil {
				return nil, missing("migrate")
			}
			return fn(s.Migrations, r)
		}
	}
	handle("GET /v1/migrations", moves(func(m Migrations, r *http.Request) (any, error) { return list(m.Batches(r.Context())) }))
	handle("POST /v1/migrations", moves(func(m Migrations, r *http.Request) (any, error) {
		request, err := body[MoveRequest](r)
		if err != nil {
			return nil, err
		}
		return m.Start(r.Context(), request)
	}))
	handle("GET /v1/migrations/{id}", moves(func(m Migrations, r *http.Request) (any, error) {
		return m.Batch(r.Context(), batchID(r))
	}))
	handle("POST /v1/migrations/{id}/moves/search", moves(func(m Migrations, r *http.Request) (any, error) {
		q, err := body[MoveQuery](r)
		if err != nil {
			return nil, err
		}
		q.Batch = batchID(r)
		return m.Moves(r.Context(), q)
	}))
	handle("GET /v1/moves/{user}/report", moves(func(m Migrations, r *http.Request) (any, error) {
		if r.FormValue("form") == "page" {
			page, err := m.Page(r.Context(), r.PathValue("user"))
			return string(page), err
		}
		text, err := m.Report(r.Context(), r.PathValue("user"))
		return json.RawMessage(text), err
	}))
	handle("POST /v1/migrations/{id}/pause", moves(func(m Migrations, r *http.Request) (any, error) {
		return nil, m.Pause(r.Context(), batchID(r))
	}))
	handle("POST /v1/migrations/{id}/resume", moves(func(m Migrations, r *http.Request) (any, error) {
		return nil, m.Resume(r.Context(), batchID(r))
	}))
	handle("POST /v1/migrations/{id}/stop", moves(func(m Migrations, r *http.Request) (any, error) {
		return nil, m.Stop(r.Context(), batchID(r))
	}))
	for what, order := range map[string]func(Migrations, context.Context, SoakOrder) (SoakOrder, error){
		"soaks/rollback": Migrations.Rollback, "soaks/finalise": Migrations.Finalise, "migrations/cutover": Migrations.Cutover} {
		handle("POST /v1/"+what, moves(func(m Migrations, r *http.Request) (any, error) {
			o, err := body[SoakOrder](r)
			if err != nil {
				return nil, err
			}
			return order(m, r.Context(), o)
		}))
	}
	handle("POST /v1/migrations/{id}/retry", moves(func(m Migrations, r *http.Request) (any, error) {
		return m.Retry(r.Context(), batchID(r))
	}))
}

// latest names the batch that was started last.
const latest = "latest"

func batchID(r *http.Request) string {
	if id := r.PathValue("id"); id != latest {
		return id
	}
	return ""
}

// orderLine is a line of the answer to soaks/await: a user whose order is carried
// out, the error that ended it, or, as the last line, that all are told.
type orderLine struct {
	Move   *Move     `json:"move,omitempty"`
	Failed *apiError `json:"failed,omitempty"`
	End    bool      `json:"end,omitempty"`
}

// awaitOrders streams the outcomes of orders as JSON lines.
func (s *Service) awaitOrders(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
	o, err := body[SoakOrder](r)
	if err == nil && s.Migrations == nil {
		err = missing("migrate")
	}
	if err != nil {
		writeError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/jsonl")
	flush, encoder := http.NewResponseController(w), json.NewEncoder(w)
	say := func(l orderLine) error {
		if err := encoder.Encode(l); err != nil {
			return err
		}
		return flush.Flush()
	}
	err = s.Migrations.AwaitOrders(r.Context(), o, func(m Move) error { return say(orderLine{Move: &m}) })
	last := orderLine{End: true}
	if err != nil {
		last = orderLine{Failed: &apiError{Text: err.Error(), Kind: backend.KindOf(err).String(), Hint: HintOf(err)}}
	}
	_ = say(last) // the client may be gone
}

// watch streams a batch as JSON lines until it is done or the client goes.
func (s *Service) watch(w http.ResponseWriter, r *http.Request) {
	if s.Migrations == nil {
		writeError(w, missing("migrate"))
		return
	}
	begun := false
	flush := http.NewResponseController(w)
	encoder := json.NewEncoder(w)
	err := s.Migrations.Watch(r.Context(), batchID(r), func(b Batch) error {
		if !begun {
			w.Header().Set("Content-Type", "application/jsonl")
			begun = true
		}
		if err := encoder.Encode(b); err != nil {
			return err
		}
		return flush.Flush()
	})
	if err != nil && !begun {
		writeError(w, err)
	}
}
