package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"

	"mailferry/backend"
)

// MigrationClient is the part of a Client that moves users.
type MigrationClient struct{ c *Client }

// Migrations is the part that moves users.
func (c *Client) Migrations() *MigrationClient { return &MigrationClient{c} }

func orLatest(id string) string {
	if id == "" {
		return latest
	}
	return id
}

// Start implements Migrations.
func (m *MigrationClient) Start(ctx context.Context, r MoveRequest) (b Batch, err error) {
	return b, m.c.do(ctx, http.MethodPost, "/v1/migrations", r, &b)
}

// Batches implements Migrations.
func (m *MigrationClient) Batches(ctx context.Context) ([]Batch, error) {
	return get[[]Batch](ctx, m.c, "/v1/migrations")
}

// Batch implements Migrations.
func (m *MigrationClient) Batch(ctx context.Context, id string) (Batch, error) {
	return get[Batch](ctx, m.c, "/v1/migrations/%s", orLatest(id))
}

// Moves implements Migrations.
func (m *MigrationClient) Moves(ctx context.Context, q MoveQuery) (page MovePage, err error) {
	path := escaped("/v1/migrations/%s/moves/search", []string{orLatest(q.Batch)})
	return page, m.c.do(ctx, http.MethodPost, path, q, &page)
}

// AllMoves goes through all pages from q.From on.
func (m *MigrationClient) AllMoves(ctx context.Context, q MoveQuery) iter.Seq2[Move, error] {
	return func(yield func(Move, error) bool) {
		for q.From >= 0 {
			page, err := m.Moves(ctx, q)
			if err != nil {
				yield(Move{}, err)
				return
			}
			for _, move := range page.Moves {
				if !yield(move, nil) {
					return
				}
			}
			q.From = page.Next
		}
	}
}

// Watch implements Migrations. A stream that ends before the batch is done is
// KindUnavailable: the node has stopped.
func (m *MigrationClient) Watch(ctx context.Context, id string, fn func(Batch) error) error {
	resp, err := m.c.send(ctx, http.MethodGet, escaped("/v1/migrations/%s/watch", []string{orLatest(id)}), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var last Batch
	for d := json.NewDecoder(resp.Body); ; {
		var b Batch
		err := d.Decode(&b)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, io.EOF) && last.Done:
			return nil
		case err != nil:
			err = backend.Errorf(backend.KindUnavailable, "", "the node stopped while it was watched: %w", err)
			return WithHint(err, "the batch goes on when the node runs again; see: mailferry migrate watch "+last.ID)
		}
		last = b
		if err := fn(b); err != nil {
			return err
		}
	}
}

// Report implements Migrations.
func (m *MigrationClient) Report(ctx context.Context, user string) ([]byte, error) {
	return get[json.RawMessage](ctx, m.c, "/v1/moves/%s/report", user)
}

// Page implements Migrations.
func (m *MigrationClient) Page(ctx context.Context, user string) ([]byte, error) {
	text, err := get[string](ctx, m.c, "/v1/moves/%s/report?form=page", user)
	return []byte(text), err
}

// Pause implements Migrations.
func (m *MigrationClient) Pause(ctx context.Context, id string) error {
	return m.post(ctx, id, "pause")
}

// Resume implements Migrations.
func (m *MigrationClient) Resume(ctx context.Context, id string) error {
	return m.post(ctx, id, "resume")
}

// Stop implements Migrations.
func (m *MigrationClient) Stop(ctx context.Context, id string) error {
	return m.post(ctx, id, "stop")
}

// Rollback implements Migrations.
func (m *MigrationClient) Rollback(ctx context.Context, o SoakOrder) (out SoakOrder, err error) {
	return out, m.c.do(ctx, http.MethodPost, "/v1/soaks/rollback", o, &out)
}

// Finalise implements Migrations.
func (m *MigrationClient) Finalise(ctx context.Context, o SoakOrder) (out SoakOrder, err error) {
	return out, m.c.do(ctx, http.MethodPost, "/v1/soaks/finalise", o, &out)
}

// AwaitOrders implements Migrations. A stream that ends early is KindUnavailable.
func (m *MigrationClient) AwaitOrders(ctx context.Context, o SoakOrder, fn func(Move) error) error {
	resp, err := m.c.send(ctx, http.MethodPost, "/v1/soaks/await", o)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for d := json.NewDecoder(resp.Body); ; {
		var l orderLine
		err := d.Decode(&l)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			err = backend.Errorf(backend.KindUnavailable, "", "the node stopped while orders were awaited: %w", err)
			return WithHint(err, "an order that had begun goes on when the node runs again; see: mailferry migrate show "+o.Batch)
		case l.Failed != nil:
			return WithHint(backend.NewError(kindNamed(l.Failed.Kind), l.Failed.Text), l.Failed.Hint)
		case l.Move == nil:
			return nil
		}
		if err := fn(*l.Move); err != nil {
			return err
		}
	}
}

// Cutover implements Migrations.
func (m *MigrationClient) Cutover(ctx context.Context, o SoakOrder) (out SoakOrder, err error) {
	return out, m.c.do(ctx, http.MethodPost, "/v1/migrations/cutover", o, &out)
}

// Retry implements Migrations.
func (m *MigrationClient) Retry(ctx context.Context, id string) (b Batch, err error) {
	return b, m.c.do(ctx, http.MethodPost, escaped("/v1/migrations/%s/retry", []string{orLatest(id)}), nil, &b)
}

func (m *MigrationClient) post(ctx context.Context, id, what string) error {
	return m.c.do(ctx, http.MethodPost, escaped("/v1/migrations/%s/"+what, []string{orLatest(id)}), nil, nil)
}
