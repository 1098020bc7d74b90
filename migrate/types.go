package migrate

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"time"

	"mailferry/backend"
	"mailferry/backend/remote"
	"mailferry/migrate/target"
)

// BatchID names a batch of moves; it is a directory's name.
type BatchID string

// BatchSpec is an order to move users. It is kept in the journal.
type BatchSpec struct {
	ID    BatchID  `json:"id"` // empty: Start makes one
	Users []string `json:"users"`
	// From is the old store; empty: wherever each user is.
	From string `json:"from,omitempty"`
	// To is the new store; it may be empty where Each names one for every user.
	To string `json:"to"`
	// Each holds what is said of single users.
	Each map[string]UserOptions `json:"each,omitempty"`
	// WaveSize cuts the batch into waves of so many users; 0: as Each names them.
	WaveSize int `json:"wave_size,omitempty"`
	// Window is when users are checked, copied and flipped, FlipWindow when they
	// are flipped: by default the same.
	Window     Windows `json:"window,omitzero"`
	FlipWindow Windows `json:"flip_window,omitzero"`
	// Hooks are the names of hooks to tell beside those that every batch has.
	Hooks []string `json:"hooks,omitempty"`
	// StopAt halts the batch, as Pause does, when too many of a wave failed.
	StopAt StopRule `json:"stop_at,omitzero"`
	// Parallel users at a time; default 4.
	Parallel int  `json:"parallel,omitempty"`
	CopyOnly bool `json:"copy_only,omitempty"` // stop at ready
	// Order is in which order users are taken who have the same priority.
	Order Order `json:"order,omitempty"`
	// SeenAt is when a user last logged in, as far as it is known otherwise than by
	// UserOptions.LastLogin; for OrderLastLogin. It is asked when the batch starts, and
	// not kept over a restart.
	SeenAt func(user string) time.Time `json:"-"`
	// OnOrder flips users only when Cutover says so; until then their copies are
	// followed.
	OnOrder bool `json:"on_order,omitempty"`
	Dry     bool `json:"dry,omitempty"` // stop at checked
	// AllowSkipped flips a user although messages could not be read.
	AllowSkipped bool `json:"allow_skipped,omitempty"`
	// POP3 says whether unique ids and order are carried over; empty: POP3Auto.
	POP3 POP3Mode `json:"pop3,omitempty"`
	// ForcePOP3 flips a user although POP3 ids of the old store were not found.
	ForcePOP3 bool `json:"force_pop3,omitempty"`
	// Filter and Rules are for copies into foreign stores: what of an account
	// is copied, and how mailboxes are named there. A foreign store cannot
	// take users over, so CopyOnly is taken as set.
	Filter *Filter       `json:"filter,omitempty"`
	Rules  *target.Rules `json:"rules,omitempty"`
	// Reread is the share of messages, in percent, whose bodies are read again
	// from the new store's disk before the hold; default 10, negative: none.
	Reread int `json:"reread,omitempty"`
	// Prove is the share of messages, in percent, that the old store is asked
	// for a second time before the hold; default 10 where it tells digests
	// (Cyrus), else none; negative: none.
	Prove int `json:"prove,omitempty"`
	// Soak is how long the old store follows the new one behind a flip, so that
	// the user can be rolled back; 0: not at all.
	Soak time.Duration `json:"soak,omitempty"`
	// Attempts is how often a check or a pass may fail in a row; default 8.
	Attempts int `json:"attempts,omitempty"`
	// OnChange is called when a user's state changes, from the user's worker.
	// It is not kept over a restart.
	OnChange func(UserStatus) `json:"-"`
}

func (s *BatchSpec) reread() int { return cmp.Or(s.Reread, defaultReread) }

func (s *BatchSpec) prove(from *backend.Store) int {
	if s.Prove == 0 && from != nil && from.Type == backend.StoreCyrus {
		return defaultReread
	}
	return s.Prove
}

// flips is when users may be flipped.
func (s *BatchSpec) flips() Windows {
	if s.FlipWindow.Always() {
		return s.Window
	}
	return s.FlipWindow
}

func (s *BatchSpec) until() State {
	switch {
	case s.Dry:
		return Checked
	case s.CopyOnly:
		return Ready
	}
	return Final
}

// newMove is the move of a user of the batch.
func (s *BatchSpec) newMove() Move {
	m := NewMove(s.until())
	m.soak = s.Soak > 0
	return m
}

// UserStatus is where one user's move stands.
type UserStatus struct {
	User         string        `json:"user"`
	State        State         `json:"state"`
	Reason       string        `json:"reason,omitempty"` // of a failure, or of the last try's
	Tries        int           `json:"tries,omitempty"`
	Messages     int64         `json:"messages"` // found so far
	MessagesDone int64         `json:"messages_done"`
	Octets       int64         `json:"octets"`
	OctetsDone   int64         `json:"octets_done"`
	Rate         float64       `json:"rate"` // octets per second since the start of the copy
	Elapsed      time.Duration `json:"elapsed"`
	Running      bool          `json:"running"`
	// SoakUntil is when the old store is followed no longer; zero in other states.
	SoakUntil time.Time `json:"soak_until,omitzero"`
	// Ordered: a roll-back or a finalise is to be carried out; only Users tells it.
	Ordered bool `json:"ordered,omitempty"`
}

// BatchStatus is where a batch stands.
type BatchStatus struct {
	ID       BatchID `json:"id"`
	From     string  `json:"from,omitempty"`
	To       string  `json:"to"`
	Paused   bool    `json:"paused,omitempty"`
	Stopped  bool    `json:"stopped,omitempty"`
	Until    State   `json:"until"`    // where moves end: final, ready, checked
	Finished bool    `json:"finished"` // every user is done, or the batch was stopped
	// Waits says what a batch waits for that does not run: a window, a user's
	// time, or an operator after too many failures.
	Waits string `json:"waits,omitempty"`
	// Passwords: those that the batch was given are still on the disk although it is
	// finished, for a retry, a cutover or a soak; Stop forgets them.
	Passwords bool `json:"passwords,omitempty"`
	// Wave is the number of the wave that runs, of Waves.
	Wave  int `json:"wave,omitempty"`
	Waves int `json:"waves,omitempty"`
	// Total users, of whom Running are at work.
	Total   int           `json:"total"`
	Running int           `json:"running"`
	Counts  map[State]int `json:"counts"`
	// What was found so far and what is done of it, over all users.
	Messages     int64 `json:"messages"`
	MessagesDone int64 `json:"messages_done"`
	Octets       int64 `json:"octets"`
	OctetsDone   int64 `json:"octets_done"`
	// Share of the work that is done, 0 to 1; users whose mail was not counted yet
	// are taken for like the others.
	Share float64 `json:"share"`
	// Rate is octets per second of late, Left how long the rest takes like that (0:
	// not known), Worked how long anybody was at work since the process began.
	Rate   float64       `json:"rate"`
	Left   time.Duration `json:"left,omitempty"`
	Worked time.Duration `json:"worked"`
	Users  []UserStatus  `json:"users,omitempty"` // in the order of the spec
}

// Done and Failed count users that need nothing more.
func (b *BatchStatus) Done() int { return b.Counts[Final] }

// Failed counts the users that failed.
func (b *BatchStatus) Failed() int { return b.Counts[Failed] }

// Options are what an Engine needs.
type Options struct {
	// Dir holds a directory per batch.
	Dir        string
	Importer   backend.Importer
	Placements backend.PlacementWriter
	// Lookup asks the directories for a user.
	Lookup func(ctx context.Context, user string) (backend.Entry, error)
	// SetStore writes the new store into the directory that knows the user;
	// nil, or an error of KindPermission: it cannot be written, the placement
	// goes on ruling.
	SetStore func(ctx context.Context, e backend.Entry, store string) error
	Stores   map[string]*backend.Store
	Dial     func(ctx context.Context, network, addr string) (net.Conn, error)
	// Own logs in to our own store for a user, by IMAP: batches with a soak read
	// there what the old store has to follow. nil: no batch may have one.
	Own     func(ctx context.Context, user string) (*remote.Client, error)
	Logger  *slog.Logger
	Metrics Metrics
	Timing  Timing
	// Hooks are told of changes of users' states. They never delay a move; events
	// that wait when the process dies are lost.
	Hooks []Hook
	// Holds is how many users of stores near by may be on hold at once; default 2. Of
	// stores that are far away more may, six times as many at most.
	Holds int
	// NoResume: Resume will not be called. What earlier engines left unfinished in
	// Dir stays as it is, and keeps no user from a new batch.
	NoResume bool
	// Account is how a user logs in at a store in mode LoginUser: name and
	// password there. nil: by the user's own name, and no password.
	Account func(s *backend.Store, user string) (name string, password backend.Secret)
}

// Metrics are called as things happen; nil ones are left out. State names are a
// closed set; see State.
type Metrics struct {
	State    func(from, to State)
	Messages func(copied, vanished, flagged int)
	// Placed tells of messages that were filed without fetching, and of mailboxes that
	// were renamed.
	Placed func(filed, renamed int)
	Octets func(n int64)
	Hold   func(d time.Duration, flipped bool)
	// Throttle tells how many users of a store's host may be worked on, of how many.
	Throttle func(host string, users, most int)
	// Failed tells why a move failed: a backend.Kind's name, or hold.
	Failed func(reason string)
	// Soak tells what a look at a soaking user's stores brought: late mail that was
	// carried to the new store, changes that were carried to the old one.
	Soak func(late, followed int)
	// Hook tells what came of an event for a hook: told, failed, dropped.
	Hook func(hook, result string)
}

// Timing are the limits of a move; zero values are the defaults.
type Timing struct {
	ReadyDelta time.Duration // 500 ms: a pass this short makes a user ready
	Hold       time.Duration // 5 s: the whole hold, up to the flip
	Quiet      time.Duration // 3 s: the proxies' confirmations
	Report     time.Duration // 5 s: the proxies' reports after the flip
	BackOff    time.Duration // 1 s, doubled up to 64 times that
	// Settle is how long a foreign target may go on filing what a broken
	// connection had sent; default 2 s.
	Settle time.Duration
	Tick   time.Duration // 1 s: how often the throttles look at live users
	Soak   time.Duration // 1 min: how often a soaking user's stores are looked at
	// Away is how long a store that was reached before, and to which no connection
	// can be made any more, fails nobody; default 1 h.
	Away time.Duration
}

func (t Timing) withDefaults() Timing {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&t.ReadyDelta, 500*time.Millisecond)
	set(&t.Hold, 5*time.Second)
	set(&t.Quiet, 3*time.Second)
	set(&t.Report, 5*time.Second)
	set(&t.BackOff, time.Second)
	set(&t.Tick, time.Second)
	set(&t.Soak, time.Minute)
	set(&t.Away, time.Hour)
	return t
}
