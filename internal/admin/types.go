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
	// Side is what the user has beside mail: access rights, quotas, annotations,
	// Sieve scripts. Only User gives it.
	Side *backend.SideData `json:"side,omitempty"`
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
	// Batch shows one without its moves; an empty id is the latest.
	Batch(ctx context.Context, id string) (Batch, error)
	// Moves gives a page of a batch's moves.
	Moves(ctx context.Context, q MoveQuery) (MovePage, error)
	// Watch calls fn with the batch, then after each change, until it is done
	// or ctx ends or fn fails. Its Moves are those at work and those that changed
	// since the call before; in the first call also those that failed.
	Watch(ctx context.Context, id string, fn func(Batch) error) error
	// Report is the latest certificate of a user's move, as JSON.
	Report(ctx context.Context, user string) ([]byte, error)
	// Page is the same as a page for people, HTML.
	Page(ctx context.Context, user string) ([]byte, error)
	Pause(ctx context.Context, id string) error
	Resume(ctx context.Context, id string) error
	// Stop ends a batch for good; users who are not flipped stay where they are. One that
	// is done forgets the passwords that it kept.
	Stop(ctx context.Context, id string) error
	// Rollback brings soaking users back to their old store, Finalise ends their
	// soak. Both return when the order is given; AwaitOrders and
	// Move.Ordered tell when it is carried out.
	Rollback(ctx context.Context, o SoakOrder) (SoakOrder, error)
	Finalise(ctx context.Context, o SoakOrder) (SoakOrder, error)
	// AwaitOrders calls fn with each user of o once, as soon as such an order is carried
	// out or was given up, until all are told, ctx ends or fn fails.
	AwaitOrders(ctx context.Context, o SoakOrder, fn func(Move) error) error
	// Cutover orders the flip of users who are copied, in a batch that waits for that
	// (OnOrder) or was a copy; the answer names the batch in which they are flipped.
	Cutover(ctx context.Context, o SoakOrder) (SoakOrder, error)
	// Retry begins the failed moves of a batch anew, as another batch.
	Retry(ctx context.Context, id string) (Batch, error)
}

// MoveRequest says who is to move, and where.
type MoveRequest struct {
	Users []string `json:"users,omitempty"`
	// Each holds what is said of single users, by their names in Users.
	Each map[string]MoveOptions `json:"each,omitempty"`
	// Where selects users in the directory's own language.
	Where string `json:"where,omitempty"`
	// Limit takes the first so many who are not at their new store yet; 0: all.
	Limit    int    `json:"limit,omitempty"`
	From     string `json:"from,omitempty"` // empty: each user's present store
	To       string `json:"to"`
	Parallel int    `json:"parallel,omitempty"`
	Dry      bool   `json:"dry,omitempty"`
	CopyOnly bool   `json:"copy_only,omitempty"`
	// OnOrder copies and follows users, and flips them when Cutover says so.
	OnOrder bool `json:"on_order,omitempty"`
	// Order is csv (as they are named, the default), name, size or last-login.
	Order string `json:"order,omitempty"`
	// Copy are imapsync's options for mailboxes and messages; for copies into
	// foreign stores.
	Copy string `json:"copy,omitempty"`
	// Reread and Prove are shares in percent, as migrate.BatchSpec has them.
	Reread int `json:"reread,omitempty"`
	Prove  int `json:"prove,omitempty"`
	// POP3 is auto, always or never; empty: the configuration's.
	POP3 string `json:"pop3,omitempty"`
	// ForcePOP3 flips users although POP3 ids of the old store were not found.
	ForcePOP3 bool `json:"force_pop3,omitempty"`
	// WaveSize cuts the batch into waves of so many users.
	WaveSize int `json:"wave_size,omitempty"`
	// Window and FlipWindow are times of the week, in the node's zone unless they
	// name one; StopAt is "10" or "5%".
	Window     string `json:"window,omitempty"`
	FlipWindow string `json:"flip_window,omitempty"`
	StopAt     string `json:"stop_at,omitempty"`
	// Soak is how long the old store follows behind a flip: 7d, 36h, 0; empty: the
	// configuration's.
	Soak string `json:"soak,omitempty"`
	// Hooks are names of configured hooks, beside those that every batch has.
	Hooks []string `json:"hooks,omitempty"`
}

// SoakOrder names users whom an order is for: those of a batch, or some. In the answer both
// are filled in.
type SoakOrder struct {
	Batch string   `json:"batch,omitempty"` // empty: that of the users
	Users []string `json:"users,omitempty"` // empty: all of the batch
}

// MoveOptions are what a request says of one user alone.
type MoveOptions struct {
	From         string    `json:"from,omitempty"`
	To           string    `json:"to,omitempty"`
	Login        string    `json:"login,omitempty"` // the name at the old store
	Password     string    `json:"password,omitempty"`
	PasswordFile string    `json:"password_file,omitempty"`
	Priority     int       `json:"priority,omitempty"`
	LastLogin    time.Time `json:"last_login,omitzero"`
	Size         int64     `json:"size,omitempty"` // octets
	NotBefore    time.Time `json:"not_before,omitzero"`
	Wave         string    `json:"wave,omitempty"`
}

// MoveQuery asks for moves of a batch.
type MoveQuery struct {
	Batch string `json:"batch,omitempty"` // empty: the latest
	// States to show; empty: all. Failed: only those that failed.
	States []string `json:"states,omitempty"`
	Failed bool     `json:"failed,omitempty"`
	// From is where a page begins, as the page before said; Limit its length, 1000
	// by default and at most.
	From  int `json:"from,omitempty"`
	Limit int `json:"limit,omitempty"`
}

// MaxPage is the length of a page of moves.
const MaxPage = 1000

// MovePage is a part of a batch's moves, in the batch's order.
type MovePage struct {
	Moves []Move `json:"moves"`
	Next  int    `json:"next"` // where the next page begins, -1 at the end
}

// Batch is a set of moves that were started together.
type Batch struct {
	ID      string `json:"id"`
	From    string `json:"from,omitempty"` // empty: each user's own store
	To      string `json:"to"`
	Paused  bool   `json:"paused"`
	Stopped bool   `json:"stopped,omitempty"`
	Done    bool   `json:"done"` // nothing is left to do, failed moves included
	// Waits says what it waits for, when no user's turn has come or it halted.
	Waits string `json:"waits,omitempty"`
	// Passwords: those that it was given are kept although it is done, for a retry, a
	// cutover or a soak; Stop forgets them.
	Passwords bool `json:"passwords,omitempty"`
	// Wave is the number of the wave that runs, of Waves.
	Wave  int `json:"wave,omitempty"`
	Waves int `json:"waves,omitempty"`
	// Users in all; Moved are those whose moves ended well, Failed those whose
	// did not, RolledBack those who were brought back to their old store by an
	// order, Running those at work. States counts all by state.
	Users      int            `json:"users"`
	Moved      int            `json:"moved"`
	Failed     int            `json:"failed"`
	RolledBack int            `json:"rolled_back,omitempty"`
	Running    int            `json:"running"`
	States     map[string]int `json:"states,omitempty"`
	// Sums over all users, as far as they were looked at.
	Messages     int64 `json:"messages"`
	MessagesDone int64 `json:"messages_done"`
	Bytes        int64 `json:"bytes"`
	BytesDone    int64 `json:"bytes_done"`
	// Share of the work that is done, 0 to 1, Rate in bytes per second of late,
	// Left how long the rest takes like that (0: not known), Elapsed how long it
	// was worked at since the node began.
	Share   float64       `json:"share"`
	Rate    float64       `json:"rate,omitempty"`
	Left    time.Duration `json:"left,omitempty"`
	Elapsed time.Duration `json:"elapsed,omitempty"`
	Moves   []Move        `json:"moves,omitempty"` // where Watch tells of them
}

// Ended counts the users whose moves have ended, in whatever way.
func (b *Batch) Ended() int { return b.Moved + b.Failed + b.RolledBack }

// Move is one user's way.
type Move struct {
	User         string        `json:"user"`
	State        string        `json:"state"`
	Done         bool          `json:"done"`              // nothing is left to do for the user
	Failed       bool          `json:"failed"`            // done, and against all orders still on the old store
	Running      bool          `json:"running,omitempty"` // somebody works on it
	Reason       string        `json:"reason,omitempty"`
	Tries        int           `json:"tries,omitempty"`
	Messages     int64         `json:"messages"` // found at the source so far
	MessagesDone int64         `json:"messages_done"`
	Bytes        int64         `json:"bytes"`
	BytesDone    int64         `json:"bytes_done"`
	Rate         float64       `json:"rate,omitempty"` // bytes per second of the copy
	Elapsed      time.Duration `json:"elapsed,omitempty"`
	// SoakUntil is when the old store is followed no longer; Ordered: a roll-back or
	// a finalise is to be carried out.
	SoakUntil time.Time `json:"soak_until,omitzero"`
	Ordered   bool      `json:"ordered,omitempty"`
}
