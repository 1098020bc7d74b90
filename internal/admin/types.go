package admin

import (
	"context"
	"time"

	"mailferry/backend"
)

// User is an entry of our own table.
type User struct {
	Name     string   `json:"name"`
	Admin    bool     `json:"admin"`
	Disabled bool     `json:"disabled"`
	Password bool     `json:"password"` // has one here
	State    string   `json:"state"`    // active, importing, creating, deleting
	Aliases  []string `json:"aliases,omitempty"`
}

// NewUser is a user to add.
type NewUser struct {
	Name     string   `json:"name"`
	Password string   `json:"password,omitempty"` // empty: no login with a password of ours
	Admin    bool     `json:"admin,omitempty"`
	Aliases  []string `json:"aliases,omitempty"`
}

// Health is what /healthz and the commands show of a node.
type Health struct {
	Node    string            `json:"node"`
	Version string            `json:"version"`
	Since   time.Time         `json:"since"`
	Roles   []string          `json:"roles"`
	Listen  map[string]string `json:"listen"`
	// Problems are empty on a healthy node.
	Problems []string `json:"problems,omitempty"`
}

// Users manages our own table. Errors carry kinds.
type Users interface {
	AddUser(ctx context.Context, u NewUser) (User, error)
	User(ctx context.Context, name string) (User, error)
	ListUsers(ctx context.Context) ([]User, error)
	SetPassword(ctx context.Context, name string, password backend.Secret) error
	SetDisabled(ctx context.Context, name string, disabled bool) error
	DeleteUser(ctx context.Context, name string) error
}

// Checker looks for damage in our own store.
type Checker interface {
	// Check reads every record, with bodies every octet, and lists what is
	// wrong; empty means nothing is.
	Check(ctx context.Context, bodies bool) ([]string, error)
}

// Migrations moves users.
type Migrations interface {
	// Start begins a batch and returns as soon as it is written down.
	Start(ctx context.Context, r MoveRequest) (Batch, error)
	Batches(ctx context.Context) ([]Batch, error)
	// Batch shows one with its moves; an empty id is the latest.
	Batch(ctx context.Context, id string) (Batch, error)
	// Watch calls fn with the batch, then after each change, until it is done
	// or ctx ends or fn fails.
	Watch(ctx context.Context, id string, fn func(Batch) error) error
	// Report is the latest certificate of a user's move, as JSON.
	Report(ctx context.Context, user string) ([]byte, error)
	// Page is the same as a page for people, HTML.
	Page(ctx context.Context, user string) ([]byte, error)
	Pause(ctx context.Context, id string) error
	Resume(ctx context.Context, id string) error
	// Retry begins the failed moves of a batch anew, as another batch.
	Retry(ctx context.Context, id string) (Batch, error)
}

// MoveRequest says who is to move, and where.
type MoveRequest struct {
	Users []string `json:"users,omitempty"`
	// Where selects users in the directory's own language.
	Where    string `json:"where,omitempty"`
	From     string `json:"from,omitempty"` // empty: each user's present store
	To       string `json:"to"`
	Parallel int    `json:"parallel,omitempty"`
	Dry      bool   `json:"dry,omitempty"`
	CopyOnly bool   `json:"copy_only,omitempty"`
	// Reread and Prove are shares in percent, as migrate.BatchSpec has them.
	Reread int `json:"reread,omitempty"`
	Prove  int `json:"prove,omitempty"`
	// POP3 is auto, always or never; empty: the configuration's.
	POP3 string `json:"pop3,omitempty"`
	// ForcePOP3 flips users although POP3 ids of the old store were not found.
	ForcePOP3 bool `json:"force_pop3,omitempty"`
}

// Batch is a set of moves that were started together.
type Batch struct {
	ID     string `json:"id"`
	From   string `json:"from,omitempty"` // empty: each user's own store
	To     string `json:"to"`
	Paused bool   `json:"paused"`
	Done   bool   `json:"done"` // nothing is left to do, failed moves included
	Moves  []Move `json:"moves,omitempty"`
}

// Move is one user's way.
type Move struct {
	User         string        `json:"user"`
	State        string        `json:"state"`
	Done         bool          `json:"done"`   // nothing is left to do for the user
	Failed       bool          `json:"failed"` // done, and still on the old store
	Reason       string        `json:"reason,omitempty"`
	Tries        int           `json:"tries,omitempty"`
	Messages     int64         `json:"messages"` // found at the source so far
	MessagesDone int64         `json:"messages_done"`
	Bytes        int64         `json:"bytes"`
	BytesDone    int64         `json:"bytes_done"`
	Rate         float64       `json:"rate,omitempty"` // bytes per second of the copy
	Elapsed      time.Duration `json:"elapsed,omitempty"`
}

// Moved is the number of moves that ended well.
func (b *Batch) Moved() int { return b.count(func(m *Move) bool { return m.Done && !m.Failed }) }

// Failed is the number of moves that ended without success.
func (b *Batch) Failed() int { return b.count(func(m *Move) bool { return m.Failed }) }

func (b *Batch) count(is func(*Move) bool) int {
	n := 0
	for i := range b.Moves {
		if is(&b.Moves[i]) {
			n++
		}
	}
	return n
}
