package directory

import (
	"context"
	"iter"

	"mailferry/backend"
)

// Users is our own table of users, as the store keeps it. Errors carry kinds.
type Users interface {
	// LookupUser finds a user by login name, or by address with aliases
	// resolved. Entry.User is canonical; Directory and Store are filled in by
	// the driver where they are empty.
	LookupUser(ctx context.Context, name string) (backend.Entry, error)
	// VerifyPassword returns KindAuthentication for a wrong password and for a
	// user without one.
	VerifyPassword(ctx context.Context, user string, password backend.Secret) error
	// AllUsers lists every user.
	AllUsers(ctx context.Context) iter.Seq2[backend.Entry, error]
}

// LocalOptions configure the driver for our own table.
type LocalOptions struct {
	Name  string
	Users Users
	Store string // name of our own store
}

// Local is the driver for our own table of users.
type Local struct{ o LocalOptions }

// NewLocal makes the driver.
func NewLocal(o LocalOptions) *Local { return &Local{o: o} }

// Name is the configured name.
func (l *Local) Name() string { return l.o.Name }

func (l *Local) fill(e backend.Entry) backend.Entry {
	e.Directory, e.CheckPassword = l.o.Name, true
	if e.Store == "" {
		e.Store = l.o.Store
	}
	return e
}

// Lookup implements backend.Directory.
func (l *Local) Lookup(ctx context.Context, name string) (backend.Entry, error) {
	if !validName(name) {
		return backend.Entry{}, notFound(l.o.Name, name)
	}
	e, err := l.o.Users.LookupUser(ctx, name)
	if err != nil {
		return backend.Entry{}, classified(l.o.Name, err)
	}
	return l.fill(e), nil
}

// Authenticate implements backend.Directory.
func (l *Local) Authenticate(ctx context.Context, e backend.Entry, password backend.Secret) error {
	if password == "" {
		return wrongPassword(l.o.Name, e.User)
	}
	return classified(l.o.Name, l.o.Users.VerifyPassword(ctx, e.User, password))
}

// AuthenticateNobody spends the time of a failing Authenticate.
func (l *Local) AuthenticateNobody(ctx context.Context, password backend.Secret) {
	if n, ok := l.o.Users.(nobodyAuthenticator); ok {
		n.AuthenticateNobody(ctx, password)
		return
	}
	dummyHash(password)
}

// Users lists all users; our own table knows no filters (KindInvalid).
func (l *Local) Users(ctx context.Context, filter string) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		if filter != "" {
			yield(backend.Entry{}, backend.NewError(backend.KindInvalid, "this directory has no filters"))
			return
		}
		for e, err := range l.o.Users.AllUsers(ctx) {
			if err == nil {
				e = l.fill(e)
			}
			if !yield(e, err) {
				return
			}
		}
	}
}
