package directory

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"iter"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"mailferry/backend"
)

func ssha(password, salt string) string {
	h := sha1.Sum([]byte(password + salt))
	return base64.StdEncoding.EncodeToString(append(h[:], salt...))
}

func bcryptOf(password string) string {
	h, _ := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	return string(h)
}

// users stands for the store's table of users.
type users struct{ t *table }

func (u users) LookupUser(ctx context.Context, name string) (backend.Entry, error) {
	return u.t.Lookup(ctx, name)
}

func (u users) VerifyPassword(ctx context.Context, user string, p backend.Secret) error {
	e, err := u.t.Lookup(ctx, user)
	if backend.IsKind(err, backend.KindNotFound) {
		return wrongPassword(u.t.name, user)
	}
	if err != nil {
		return err
	}
	return u.t.Authenticate(ctx, e, p)
}

func (u users) AllUsers(context.Context) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		for _, e := range u.t.entries {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func TestLocal(t *testing.T) {
	testDirectory(t, func(*testing.T) subject {
		tab := &table{name: "table", entries: map[string]backend.Entry{
			"anna":  {User: "anna", Store: "old1"},
			"otto":  {User: "otto", Disabled: true},
			"bernd": {User: "bernd"},
		}}
		d := NewLocal(LocalOptions{Name: "local", Users: users{tab}, Store: "old1"})
		return subject{dir: d, away: func() { tab.err = context.DeadlineExceeded }}
	})
}
