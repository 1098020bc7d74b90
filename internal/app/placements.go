package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"mailferry/backend"
)

// placements is the one placement table that proxy and migration share: the
// proxy reads it from memory and confirms holds, the migration changes it.
// Records live in the replicated table; a watch keeps the memory equal to it.
// Confirmations and resumptions are kept in memory only: they belong to one
// running hold, and a hold that nobody runs any more is taken back at start.
type placements struct {
	table   table
	proxies func() []string // names of the nodes that must confirm
	log     *slog.Logger

	// turn is held while subscribers run, so that each sees changes in order.
	turn        sync.Mutex
	subscribers map[int]func(backend.Placement) // guarded by turn
	nextID      int                             // guarded by turn

	mu      sync.Mutex
	known   map[string]backend.Placement // guarded by mu
	reports map[string]*holdReports      // guarded by mu; by user
	changed chan struct{}                // guarded by mu; closed and replaced when reports change
}

// table is what placements need of the replicated table of bytes.
type table interface {
	// get returns a value and its version; version 0: there is none.
	get(ctx context.Context, key string) (value []byte, version uint64, err error)
	// set writes if the version is still ifVersion, else fails with errVersion.
	set(ctx context.Context, key string, value []byte, ifVersion uint64) error
	// list calls fn for each key with the prefix.
	list(ctx context.Context, prefix string, fn func(key string, value []byte)) error
	// watch calls fn after each change of a key with the prefix, until ctx ends.
	watch(ctx context.Context, prefix string, fn func(key string, value []byte)) error
}

// errVersion: somebody else changed the key.
var errVersion = errors.New("version has changed")

const placementPrefix = "placement/"

// holdReports is what proxies said about one user's latest epochs.
type holdReports struct {
	epoch     uint64 // of confirmed
	confirmed map[string]backend.Confirmation
	after     uint64 // of resumed
	resumed   map[string]backend.Resumption
}

var (
	_ backend.PlacementReader = (*placements)(nil)
	_ backend.PlacementWriter = (*placements)(nil)
)

func newPlacements(t table, proxies func() []string, log *slog.Logger) *placements {
	return &placements{table: t, proxies: proxies, log: log, subscribers: map[int]func(backend.Placement){},
		known: map[string]backend.Placement{}, reports: map[string]*holdReports{}, changed: make(chan struct{})}
}

// load fills the memory; call it before anything is served.
func (ps *placements) load(ctx context.Context) error {
	return ps.table.list(ctx, placementPrefix, ps.receive)
}

// run follows the table until ctx ends.
func (ps *placements) run(ctx context.Context) {
	err := ps.table.watch(ctx, placementPrefix, ps.receive)
	if err != nil && ctx.Err() == nil {
		ps.log.Error("placements are no longer followed", "error", err)
	}
}

func (ps *placements) receive(key string, value []byte) {
	var p backend.Placement
	if err := json.Unmarshal(value, &p); err != nil {
		ps.log.Error("placement cannot be read", "key", key, "error", err)
		return
	}
	ps.learn(p)
}

// learn takes a committed record into memory and tells subscribers, unless it
// is known already.
func (ps *placements) learn(p backend.Placement) {
	ps.turn.Lock()
	defer ps.turn.Unlock()
	ps.mu.Lock()
	if old, ok := ps.known[placementKey(p.User)]; ok && old.Epoch >= p.Epoch {
		ps.mu.Unlock()
		return
	}
	ps.known[placementKey(p.User)] = p
	ps.mu.Unlock()
	for _, fn := range ps.subscribers {
		fn(p)
	}
}

// placementKey folds case: names of users are compared without it.
func placementKey(user string) string { return placementPrefix + strings.ToLower(user) }

// Placement implements backend.PlacementReader.
func (ps *placements) Placement(_ context.Context, user string) (backend.Placement, bool, error) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p, ok := ps.known[placementKey(user)]
	return p, ok, nil
}

// Subscribe implements backend.PlacementReader. cancel must not be called from fn.
func (ps *placements) Subscribe(fn func(backend.Placement)) (cancel func()) {
	ps.turn.Lock()
	defer ps.turn.Unlock()
	id := ps.nextID
	ps.nextID++
	ps.subscribers[id] = fn
	return func() {
		ps.turn.Lock()
		defer ps.turn.Unlock()
		delete(ps.subscribers, id)
	}
}

// Get implements backend.PlacementWriter.
func (ps *placements) Get(ctx context.Context, user string) (backend.Placement, bool, error) {
	p, version, err := ps.read(ctx, user)
	return p, version > 0, err
}

func (ps *placements) read(ctx context.Context, user string) (p backend.Placement, version uint64, err error) {
	value, version, err := ps.table.get(ctx, placementKey(user))
	if err != nil {
		return p, 0, unavailable("read the placement of %s: %w", user, err)
	}
	if version == 0 {
		return p, 0, nil
	}
	if err := json.Unmarshal(value, &p); err != nil {
		return p, 0, fmt.Errorf("placement of %s: %w", user, err)
	}
	return p, version, nil
}

// Swap implements backend.PlacementWriter. This node has learnt p when it returns.
func (ps *placements) Swap(ctx context.Context, p backend.Placement) error {
	old, version, err := ps.read(ctx, p.User)
	if err != nil {
		return err
	}
	if old.Epoch != p.Epoch-1 {
		return backend.Errorf(backend.KindConflict, "", "placement of %s: epoch is %d, not %d", p.User, old.Epoch, p.Epoch-1)
	}
	value, err := json.Marshal(p)
	if err != nil {
		return err
	}
	err = ps.table.set(ctx, placementKey(p.User), value, version)
	switch {
	case errors.Is(err, errVersion):
		return backend.Errorf(backend.KindConflict, "", "placement of %s at epoch %d: %w", p.User, p.Epoch, err)
	case err != nil:
		return unavailable("write the placement of %s: %w", p.User, err)
	}
	ps.learn(p)
	return nil
}

// All implements backend.PlacementWriter.
func (ps *placements) All(ctx context.Context) ([]backend.Placement, error) {
	var all []backend.Placement
	var bad error
	err := ps.table.list(ctx, placementPrefix, func(key string, value []byte) {
		var p backend.Placement
		if err := json.Unmarshal(value, &p); err != nil {
			bad = errors.Join(bad, fmt.Errorf("%s: %w", key, err))
			return
		}
		all = append(all, p)
	})
	if err != nil {
		return nil, unavailable("list placements: %w", err)
	}
	return all, bad
}

// reportsOf is the record of a user; call it with mu held.
func (ps *placements) reportsOf(user string) *holdReports {
	key := placementKey(user)
	r := ps.reports[key]
	if r == nil {
		r = &holdReports{}
		ps.reports[key] = r
	}
	return r
}

// signal wakes those who await reports; call it with mu held.
func (ps *placements) signal() {
	close(ps.changed)
	ps.changed = make(chan struct{})
}

// Confirm implements backend.PlacementReader. A later word of a node for the
// same epoch replaces the earlier one; words for older epochs are dropped.
func (ps *placements) Confirm(_ context.Context, c backend.Confirmation) error {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	r := ps.reportsOf(c.User)
	if c.Epoch < r.epoch {
		return nil
	}
	if c.Epoch > r.epoch {
		r.epoch, r.confirmed = c.Epoch, map[string]backend.Confirmation{}
	}
	r.confirmed[c.Node] = c
	ps.signal()
	return nil
}

// Resumed implements backend.PlacementReader.
func (ps *placements) Resumed(_ context.Context, res backend.Resumption) error {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	r := ps.reportsOf(res.User)
	if res.Epoch < r.after {
		return nil
	}
	if res.Epoch > r.after {
		r.after, r.resumed = res.Epoch, map[string]backend.Resumption{}
	}
	r.resumed[res.Node] = res
	ps.signal()
	return nil
}

// AwaitQuiet implements backend.PlacementWriter.
func (ps *placements) AwaitQuiet(ctx context.Context, user string, epoch uint64) ([]backend.Confirmation, error) {
	var got []backend.Confirmation
	err := ps.await(ctx, func() (missing []string) {
		r := ps.reportsOf(user)
		if r.epoch != epoch {
			return ps.proxies()
		}
		got, missing = collect(ps.proxies(), r.confirmed)
		return missing
	})
	if err != nil {
		return got, backend.Errorf(backend.KindTemporary, "", "hold of %s at epoch %d: %w", user, epoch, err)
	}
	return got, nil
}

// AwaitResumed implements backend.PlacementWriter: when ctx ends first it
// returns what has come, without an error.
func (ps *placements) AwaitResumed(ctx context.Context, user string, epoch uint64) ([]backend.Resumption, error) {
	var got []backend.Resumption
	err := ps.await(ctx, func() (missing []string) {
		r := ps.reportsOf(user)
		if r.after != epoch {
			return ps.proxies()
		}
		got, missing = collect(ps.proxies(), r.resumed)
		return missing
	})
	if err != nil {
		ps.log.Warn("sessions may not have resumed", "user", user, "epoch", epoch, "error", err)
	}
	return got, nil
}

// await calls check, with mu held, after each report until nobody is missing.
func (ps *placements) await(ctx context.Context, check func() (missing []string)) error {
	for {
		ps.mu.Lock()
		missing, changed := check(), ps.changed
		ps.mu.Unlock()
		if len(missing) == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("no word from proxy %s: %w", strings.Join(missing, ", "), ctx.Err())
		}
	}
}

// collect splits nodes into the reports that are there and the nodes without.
func collect[T any](nodes []string, reports map[string]T) (got []T, missing []string) {
	slices.Sort(nodes)
	for _, n := range nodes {
		if r, ok := reports[n]; ok {
			got = append(got, r)
		} else {
			missing = append(missing, n)
		}
	}
	return got, missing
}

func unavailable(format string, args ...any) error {
	return backend.Errorf(backend.KindUnavailable, "", format, args...)
}
