package app

import (
	"context"
	"slices"
	"time"

	"mailferry/backend"
	"mailferry/internal/admin"
	"mailferry/internal/lastlogin"
	"mailferry/migrate"
)

// keepLogins opens the record of last logins, which says in what order users move.
func (a *App) keepLogins() {
	var err error
	if a.logins, err = lastlogin.Open(a.path(fileLogins)); err != nil {
		a.log.Warn(err.Error())
	}
	a.parts = append(a.parts, part{name: "last logins", serve: func(ctx context.Context) error {
		return a.logins.Keep(ctx, func(err error) { a.log.Warn(err.Error()) })
	}})
}

// byLastLogin lets a batch be ordered by the logins that this node saw, beside those that
// the request names.
func (m *migrations) byLastLogin(spec *migrate.BatchSpec) error {
	if spec.Order != migrate.OrderLastLogin {
		return nil
	}
	seen := func(string) time.Time { return time.Time{} }
	if m.app.logins != nil {
		seen = m.app.logins.At
	}
	spec.SeenAt = seen
	if slices.ContainsFunc(spec.Users, func(u string) bool { return !spec.LastLogin(u).IsZero() }) {
		return nil
	}
	err := backend.NewError(backend.KindInvalid, "no last login of any of these users is known")
	return admin.WithHint(err, "the node remembers logins that it saw itself; name them in a column last-login of --users, or use another --order")
}
