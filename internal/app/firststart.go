package app

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"strings"

	"mailferry/backend"
	"mailferry/internal/config"
	"mailferry/store"
)

// credentials of the users made at the first start; userName is empty when no
// directory of ours would let a user in.
type credentials struct {
	adminName, userName         string
	adminPassword, userPassword backend.Secret
}

// firstUsers makes an admin and a user on an empty data directory; nil when
// there are users. A crash in between is repaired by the next start: the file
// first-start says that the passwords were never shown, so they are made anew.
func (a *App) firstUsers(ctx context.Context) (*credentials, error) {
	if a.users == nil {
		return nil, nil
	}
	have, err := a.store.Users(ctx, "", 1)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(a.path(fileFirst)); len(have) > 0 && errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err := writeFile(a.path(fileFirst), 0o600, nil); err != nil {
		return nil, err
	}
	c := &credentials{adminName: "admin", adminPassword: newPassword()}
	if err := writeFile(a.path(fileSecret), 0o600, []byte(c.adminName+":"+c.adminPassword.Reveal()+"\n")); err != nil {
		return nil, err
	}
	err = a.makeUser(ctx, c.adminPassword, store.NewUser{Name: c.adminName, Admin: true, Aliases: []string{"admin@localhost"}})
	if err != nil {
		return nil, err
	}
	if !a.conf.HasDirectory(config.DirectoryLocal) {
		return c, nil
	}
	c.userName, c.userPassword = "user@localhost", newPassword()
	return c, a.makeUser(ctx, c.userPassword, store.NewUser{Name: c.userName})
}

// makeUser creates a user, or gives the one that is there the password.
func (a *App) makeUser(ctx context.Context, p backend.Secret, n store.NewUser) (err error) {
	if n.PasswordHash, err = store.HashPassword(p); err != nil {
		return err
	}
	_, err = a.store.CreateUser(ctx, n)
	if backend.IsKind(err, backend.KindExists) {
		return a.users.SetPassword(ctx, n.Name, p)
	}
	return err
}

// newPassword has 100 random bits in letters and digits that nobody confuses.
func newPassword() backend.Secret { return backend.Secret(strings.ToLower(rand.Text()[:20])) }
