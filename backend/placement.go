package backend

import (
	"context"
	"time"
)

// PlacementState is what a user's sessions and deliveries may do now.
type PlacementState uint8

// PlacementActive: the user lives on Placement.Store. PlacementHolding: nothing
// may reach any store: sessions freeze, logins and deliveries wait.
const (
	PlacementActive PlacementState = iota
	PlacementHolding
)

func (s PlacementState) String() string {
	if s == PlacementHolding {
		return "holding"
	}
	return "active"
}

// Placement is a route that this cluster decides. It overrides the directory.
// Each change raises Epoch by one; the hold is e+1, the flip or the abort e+2.
type Placement struct {
	User  string         `json:"user"`
	State PlacementState `json:"state"`
	// Store is where the user is active, or was before the hold.
	Store string `json:"store"`
	// Host is the address when Store serves any host.
	Host string `json:"host,omitempty"`
	// Target is the other store of the move that runs; empty without one. The
	// proxy announces what both share while it is set.
	Target string `json:"target,omitempty"`
	Epoch  uint64 `json:"epoch"`
	// Move names the migration that owns the change.
	Move  string    `json:"move,omitempty"`
	Since time.Time `json:"since"`
}

// Confirmation is a proxy's word that a user is quiet: each session is frozen
// at a safe point, each old backend connection has answered its last tag or is
// closed, and each delivery waits. It counts for the epoch it names only.
type Confirmation struct {
	Node  string `json:"node"`
	User  string `json:"user"`
	Epoch uint64 `json:"epoch"`
	// Frozen sessions will be attached, Closing ones get BYE after a flip;
	// Refused is the reason when the user cannot be held now (a command that
	// runs for too long), else empty.
	Frozen  int    `json:"frozen"`
	Closing int    `json:"closing"`
	Refused string `json:"refused,omitempty"`
}

// Resumption is a proxy's report after a hold: how its sessions went on.
type Resumption struct {
	Node  string `json:"node"`
	User  string `json:"user"`
	Epoch uint64 `json:"epoch"` // of the flip or abort
	// Attached went on at the new store, Resumed at the old, Closed got BYE.
	Attached int             `json:"attached"`
	Resumed  int             `json:"resumed"`
	Closed   int             `json:"closed"`
	Reasons  []string        `json:"reasons,omitempty"` // of the closed ones
	Pauses   []time.Duration `json:"pauses,omitempty"`  // freeze to thaw, one per session and waiting login or delivery
}

// PlacementReader is the proxy's side of the placement table. Implementations
// are safe for concurrent use.
type PlacementReader interface {
	// Placement is the current record; ok is false when there is none. It
	// answers from memory. KindUnavailable: this node may be behind.
	Placement(ctx context.Context, user string) (p Placement, ok bool, err error)
	// Subscribe calls fn for each changed placement, in the order of epochs
	// per user, from one goroutine; fn must not block. The returned function
	// ends it and waits for a running fn.
	Subscribe(fn func(Placement)) (cancel func())
	// Confirm answers a hold.
	Confirm(ctx context.Context, c Confirmation) error
	// Resumed reports after the hold.
	Resumed(ctx context.Context, r Resumption) error
}

// PlacementWriter is the migration's side of the placement table.
type PlacementWriter interface {
	// Get reads the committed record.
	Get(ctx context.Context, user string) (p Placement, ok bool, err error)
	// Swap writes p if the record's epoch is still p.Epoch-1 (no record counts
	// as epoch 0); KindConflict otherwise. It is durable when it returns.
	Swap(ctx context.Context, p Placement) error
	// AwaitQuiet returns when every proxy node has confirmed the hold of this
	// epoch, or refused it, or ctx ends.
	AwaitQuiet(ctx context.Context, user string, epoch uint64) ([]Confirmation, error)
	// AwaitResumed collects the proxies' reports for the epoch that ended a
	// hold, until all have come or ctx ends; it returns what it has.
	AwaitResumed(ctx context.Context, user string, epoch uint64) ([]Resumption, error)
	// All lists every placement, for recovery.
	All(ctx context.Context) ([]Placement, error)
}
