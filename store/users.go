package store

import (
	"context"

	"mailferry/backend"
	"mailferry/cluster/engine"
)

// UserState says whether a user's mailboxes are open.
type UserState uint8

// UserActive: open to clients and delivery. UserImporting: a move fills the
// mailboxes, nobody else sees them. UserCreating and UserDeleting last for one
// CreateUser or DeleteUser; after a crash in it, calling it again ends it.
const (
	UserActive UserState = iota
	UserImporting
	UserCreating
	UserDeleting
)

// User is a record of the Meta shard.
type User struct {
	ID           uint64
	Name         string         // canonical: as created; compared without case
	Shard        engine.ShardID // where the user's mail is
	Namespace    backend.Namespace
	PasswordHash string // PHC or crypt form; empty: no password (the directory checks)
	Disabled     bool
	Admin        bool
	State        UserState
	Aliases      []string // further addresses that deliver to the user
}

// NewUser is a user to create.
type NewUser struct {
	Name         string
	PasswordHash string
	Admin        bool
	Aliases      []string
}

// CreateUser creates an active user with INBOX, Drafts, Sent, Junk, Trash and
// Archive. KindExists: the name or an alias is taken.
func (s *Store) CreateUser(ctx context.Context, u NewUser) (User, error) { return User{}, nil }

// User finds a user by name or alias, from memory when it can. KindNotFound.
func (s *Store) User(ctx context.Context, name string) (User, error) { return User{}, nil }

// Users lists up to limit users whose name is above after, in order of names.
func (s *Store) Users(ctx context.Context, after string, limit int) ([]User, error) { return nil, nil }

// UpdateUser changes the record with fn, which may run more than once and must
// not change ID, Name, Shard and State.
func (s *Store) UpdateUser(ctx context.Context, name string, fn func(*User) error) (User, error) {
	return User{}, nil
}

// DeleteUser removes a user and all mail.
func (s *Store) DeleteUser(ctx context.Context, name string) error { return nil }

// Account opens a user's mailboxes. KindNotFound; KindUnavailable while the
// user is being imported or lives in a shard without a replica here.
func (s *Store) Account(ctx context.Context, name string) (*Account, error) { return nil, nil }

// Authenticate checks a name and password and returns the user.
// KindAuthentication: wrong in any way, disabled included.
func (s *Store) Authenticate(ctx context.Context, name string, p backend.Secret) (User, error) {
	return User{}, nil
}
