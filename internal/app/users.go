package app

import (
	"context"
	"iter"
	"strings"
	"unicode"

	"mailferry/backend"
	"mailferry/internal/admin"
	"mailferry/store"
)

// users is our own table of users as a directory and as the admin API see it.
type users struct {
	store  *store.Store
	forget func(name string) // what is remembered of a user elsewhere is out of date
	kick   func(name string) // a user's sessions are to end
}

// LookupUser implements directory.Users. A user who is being imported lives
// elsewhere, so that is not known here.
func (u *users) LookupUser(ctx context.Context, name string) (backend.Entry, error) {
	have, err := u.store.User(ctx, name)
	if err != nil {
		return backend.Entry{}, err
	}
	if have.State != store.UserActive {
		return backend.Entry{}, backend.Errorf(backend.KindNotFound, "", "%s is %s", have.Name, stateName(have.State))
	}
	return entryOf(&have), nil
}

func entryOf(u *store.User) backend.Entry {
	return backend.Entry{User: u.Name, ID: u.Name, Disabled: u.Disabled, Recipients: u.Aliases}
}

// VerifyPassword implements directory.Users.
func (u *users) VerifyPassword(ctx context.Context, user string, p backend.Secret) error {
	_, err := u.store.Authenticate(ctx, user, p)
	return err
}

// AllUsers implements directory.Users.
func (u *users) AllUsers(ctx context.Context) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		for have, err := range u.all(ctx) {
			if err != nil {
				yield(backend.Entry{}, err)
				return
			}
			if have.State == store.UserActive && !yield(entryOf(&have), nil) {
				return
			}
		}
	}
}

// all walks the table in pages.
func (u *users) all(ctx context.Context) iter.Seq2[store.User, error] {
	const page = 500
	return func(yield func(store.User, error) bool) {
		for after := ""; ; {
			list, err := u.store.Users(ctx, after, page)
			if err != nil {
				yield(store.User{}, err)
				return
			}
			for _, have := range list {
				if !yield(have, nil) {
					return
				}
				after = have.Name
			}
			if len(list) < page {
				return
			}
		}
	}
}

func stateName(s store.UserState) string {
	switch s {
	case store.UserActive:
		return "active"
	case store.UserImporting:
		return "importing"
	case store.UserCreating:
		return "creating"
	}
	return "deleting"
}

func shown(u store.User) admin.User {
	return admin.User{Name: u.Name, Admin: u.Admin, Disabled: u.Disabled, Password: u.PasswordHash != "",
		State: stateName(u.State), Aliases: u.Aliases}
}

// AddUser implements admin.Users.
func (u *users) AddUser(ctx context.Context, n admin.NewUser) (admin.User, error) {
	for _, name := range append([]string{n.Name}, n.Aliases...) {
		if err := checkName(name); err != nil {
			return admin.User{}, err
		}
	}
	hash, err := hashOf(backend.Secret(n.Password))
	if err != nil {
		return admin.User{}, err
	}
	made, err := u.store.CreateUser(ctx, store.NewUser{Name: n.Name, PasswordHash: hash, Admin: n.Admin, Aliases: n.Aliases})
	for _, name := range append([]string{n.Name}, n.Aliases...) {
		u.forget(name)
	}
	if err != nil {
		return admin.User{}, named(n.Name, err)
	}
	return shown(made), nil
}

// checkName refuses names that no client could log in with.
func checkName(name string) error {
	bad := func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || strings.ContainsRune(`"*%\<>`, r)
	}
	switch {
	case name == "", len(name) > 255:
		return backend.NewError(backend.KindInvalid, "a name has 1 to 255 octets")
	case strings.ContainsFunc(name, bad):
		return backend.Errorf(backend.KindInvalid, "", "%q: spaces, controls and \" * %% \\ < > cannot be in a name", name)
	case strings.Count(name, "@") > 1:
		return backend.Errorf(backend.KindInvalid, "", "%q has more than one @", name)
	}
	return nil
}

func hashOf(p backend.Secret) (string, error) {
	if p == "" {
		return "", nil
	}
	return store.HashPassword(p)
}

// named puts the user's name before an error of the store.
func named(name string, err error) error {
	return backend.Errorf(backend.KindOf(err), "", "%s: %w", name, err)
}

// User implements admin.Users.
func (u *users) User(ctx context.Context, name string) (admin.User, error) {
	have, err := u.store.User(ctx, name)
	if err != nil {
		return admin.User{}, named(name, err)
	}
	user := shown(have)
	if have.State != store.UserActive {
		return user, nil
	}
	a, err := u.store.Account(ctx, have.Name)
	if err == nil {
		user.Side, err = a.SideData(ctx)
	}
	if err != nil {
		return admin.User{}, named(name, err)
	}
	return user, nil
}

// ListUsers implements admin.Users.
func (u *users) ListUsers(ctx context.Context) (list []admin.User, err error) {
	for have, err := range u.all(ctx) {
		if err != nil {
			return nil, err
		}
		list = append(list, shown(have))
	}
	return list, nil
}

// SetPassword implements admin.Users.
func (u *users) SetPassword(ctx context.Context, name string, p backend.Secret) error {
	if p == "" {
		return backend.NewError(backend.KindInvalid, "the password is empty")
	}
	hash, err := hashOf(p)
	if err != nil {
		return err
	}
	return u.update(ctx, name, func(have *store.User) { have.PasswordHash = hash })
}

// SetDisabled implements admin.Users.
func (u *users) SetDisabled(ctx context.Context, name string, disabled bool) error {
	err := u.update(ctx, name, func(have *store.User) { have.Disabled = disabled })
	if err != nil || !disabled {
		return err
	}
	have, err := u.store.User(ctx, name)
	if err == nil {
		u.kick(have.Name)
	}
	return err
}

func (u *users) update(ctx context.Context, name string, fn func(*store.User)) error {
	have, err := u.store.UpdateUser(ctx, name, func(have *store.User) error {
		fn(have)
		return nil
	})
	if err != nil {
		return named(name, err)
	}
	u.forget(have.Name)
	return nil
}

// DeleteUser implements admin.Users. The store takes a user's name here,
// no alias.
func (u *users) DeleteUser(ctx context.Context, name string) error {
	defer u.forget(name)
	if err := u.store.DeleteUser(ctx, name); err != nil {
		return named(name, err)
	}
	u.kick(name)
	return nil
}

// authenticateAdmin is for the HTTPS listener.
func (u *users) authenticateAdmin(ctx context.Context, name string, p backend.Secret) error {
	have, err := u.store.Authenticate(ctx, name, p)
	if err != nil {
		return err
	}
	if !have.Admin {
		return backend.NewError(backend.KindPermission, "this user is no admin")
	}
	return nil
}

// Check implements admin.Checker.
func (u *users) Check(ctx context.Context, bodies bool) ([]string, error) {
	faults, err := u.store.Check(ctx, store.CheckOptions{Bodies: bodies})
	var texts []string
	for _, f := range faults {
		texts = append(texts, f.String())
	}
	return texts, err
}
