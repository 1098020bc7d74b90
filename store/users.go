package store

import (
	"context"
	"slices"
	"strings"

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
	// UIDLFormat makes the POP3 ids of messages that have none stored.
	UIDLFormat backend.UIDLFormat

	revision uint64 // of the record, for UpdateUser
}

// NewUser is a user to create.
type NewUser struct {
	Name         string
	PasswordHash string
	Admin        bool
	Aliases      []string
}

// foldName is the form in which user names and aliases are compared.
func foldName(name string) string { return strings.ToLower(name) }

// CreateUser creates an active user with INBOX, Drafts, Sent, Junk, Trash and
// Archive. KindExists: the name or an alias is taken.
func (s *Store) CreateUser(ctx context.Context, n NewUser) (User, error) {
	u, err := s.addUser(ctx, User{Name: n.Name, Namespace: backend.DefaultNamespace, PasswordHash: n.PasswordHash,
		Admin: n.Admin, Aliases: n.Aliases, State: UserCreating})
	if err != nil {
		return User{}, err
	}
	sh, err := s.shard(u.Shard)
	if err != nil {
		return User{}, err
	}
	if _, err := s.propose(ctx, sh, encodeAccountCreate(u.ID, s.now())); err != nil {
		return User{}, err
	}
	return s.setUser(ctx, u.Name, func(u *User) error {
		u.State = UserActive
		return nil
	})
}

// addUser creates the record; it gives the ID and the shard.
func (s *Store) addUser(ctx context.Context, u User) (User, error) {
	if u.Name == "" || len(u.Name) > 1024 || strings.ContainsAny(u.Name, "\x00\r\n") {
		return User{}, backend.NewError(backend.KindInvalid, "not a user name")
	}
	e := encoder{}
	e.byte(cmdUserCreate)
	shards := s.engine.Shards()
	e.uint(uint64(len(shards)))
	for _, id := range shards {
		e.uint(uint64(id))
	}
	e.user(&u)
	d, err := s.propose(ctx, s.meta, e.b)
	if err != nil {
		return User{}, err
	}
	return d.user(), d.end()
}

// readUser reads the committed record, by name or alias.
func (s *Store) readUser(ctx context.Context, name string) (User, error) {
	v, err := s.view(ctx, s.meta)
	if err != nil {
		return User{}, err
	}
	defer v.Close()
	u, ok, err := findUser(v, name)
	if err != nil {
		return User{}, engineError(err)
	}
	if !ok {
		return User{}, errNoAccount
	}
	return u, nil
}

// User finds a user by name or alias, from memory when it can. KindNotFound.
func (s *Store) User(ctx context.Context, name string) (User, error) {
	if u, ok := s.users.get(name); ok {
		return u, nil
	}
	generation := s.users.generation()
	u, err := s.readUser(ctx, name)
	if err != nil {
		return User{}, err
	}
	s.users.put(name, u, generation)
	return u, nil
}

// Users lists up to limit users whose name is above after, in order of names.
func (s *Store) Users(ctx context.Context, after string, limit int) ([]User, error) {
	v, err := s.view(ctx, s.meta)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	lower := []byte{prefixUser}
	if after != "" {
		lower = append(foldedKey(prefixUser, after), 0)
	}
	it := v.Iter(lower, []byte{prefixUser + 1})
	var users []User
	for ok := it.First(); ok && len(users) < limit; ok = it.Next() {
		d := decoder{b: it.Value()}
		users = append(users, d.user())
		if d.err != nil {
			return nil, closeWith(it, d.err)
		}
	}
	return users, closeWith(it, nil)
}

// closeWith closes an iterator and joins its error with err.
func closeWith(it engine.Iterator, err error) error {
	if cerr := it.Close(); err == nil {
		err = cerr
	}
	return engineError(err)
}

// UpdateUser changes the record with fn, which may run more than once and must
// not change ID, Name, Shard and State.
func (s *Store) UpdateUser(ctx context.Context, name string, fn func(*User) error) (User, error) {
	return s.setUser(ctx, name, func(u *User) error {
		old := *u
		if err := fn(u); err != nil {
			return err
		}
		u.ID, u.Name, u.Shard, u.State = old.ID, old.Name, old.Shard, old.State
		return nil
	})
}

// setUser reads, changes and swaps the record until nobody else came between.
func (s *Store) setUser(ctx context.Context, name string, fn func(*User) error) (User, error) {
	for {
		u, err := s.readUser(ctx, name)
		if err != nil {
			return User{}, err
		}
		u.Aliases = slices.Clone(u.Aliases)
		if err := fn(&u); err != nil {
			return User{}, err
		}
		e := encoder{}
		e.byte(cmdUserUpdate)
		e.user(&u)
		d, err := s.propose(ctx, s.meta, e.b)
		if backend.IsKind(err, backend.KindConflict) {
			continue
		}
		if err != nil {
			return User{}, err
		}
		return d.user(), d.end()
	}
}

// DeleteUser removes a user and all mail. KindNotFound.
func (s *Store) DeleteUser(ctx context.Context, name string) error {
	u, err := s.setUser(ctx, name, func(u *User) error {
		if foldName(u.Name) != foldName(name) {
			return errNoAccount // an alias
		}
		u.State = UserDeleting
		return nil
	})
	if err != nil {
		return err
	}
	sh, err := s.shard(u.Shard)
	if err != nil {
		return err
	}
	e := encoder{}
	e.byte(cmdAccountRemove)
	e.uint(u.ID)
	if _, err := s.propose(ctx, sh, e.b); err != nil {
		return err
	}
	if err := s.purge(ctx, sh, u.ID); err != nil {
		return err
	}
	e = encoder{}
	e.byte(cmdUserRemove)
	e.uint(u.ID)
	_, err = s.propose(ctx, s.meta, e.b)
	return err
}

// Account opens a user's mailboxes. KindNotFound; KindUnavailable while the
// user is being imported or lives in a shard without a replica here.
func (s *Store) Account(ctx context.Context, name string) (*Account, error) {
	u, err := s.User(ctx, name)
	if err != nil {
		return nil, err
	}
	switch u.State {
	case UserActive:
		return s.account(u)
	case UserImporting:
		return nil, backend.NewError(backend.KindUnavailable, "mailbox is being moved")
	case UserCreating:
		return nil, backend.NewError(backend.KindUnavailable, "user is being created")
	default:
		return nil, errNoAccount
	}
}

func (s *Store) account(u User) (*Account, error) {
	sh, err := s.shard(u.Shard)
	if err != nil {
		return nil, err
	}
	return &Account{store: s, shard: sh, user: u}, nil
}
