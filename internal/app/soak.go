package app

import (
	"context"
	"net"
	"strconv"
	"strings"
	"time"

	"mailferry/backend"
	"mailferry/backend/remote"
	"mailferry/internal/admin"
	"mailferry/migrate"
	"mailferry/proxy"
	"mailferry/store/imapd"
)

// readOwn logs in to our own store for a user, by IMAP within the process: the
// engine of moves reads there what an old store has to follow.
func (a *App) readOwn(ctx context.Context, user string) (*remote.Client, error) {
	conn, err := remote.DialIMAP(ctx, a.local.login.target(proxy.ConnectRequest{Route: backend.Route{User: user}},
		func(nc net.Conn, client string) {
			a.local.server.ServeConn(context.Background(), nc, imapd.ConnInfo{Trusted: true, Remote: client})
		}))
	if err != nil {
		return nil, err
	}
	return remote.NewClient(conn), nil
}

// soak is the time that a request names, or the configuration's.
func (m *migrations) soak(text string) (time.Duration, error) {
	if text == "" {
		return m.app.conf.Migrate.Soak, nil
	}
	invalid := backend.Errorf(backend.KindInvalid, "", "soak is %q: a time such as 7d, 36h or 0", text)
	days, rest := "0", text
	if n := strings.IndexByte(text, 'd'); n >= 0 {
		days, rest = text[:n], text[n+1:]
	}
	n, err := strconv.ParseUint(days, 10, 16)
	if err != nil {
		return 0, invalid
	}
	d := time.Duration(n) * 24 * time.Hour
	if rest != "" {
		more, err := time.ParseDuration(rest)
		if err != nil || more < 0 {
			return 0, invalid
		}
		d += more
	}
	return d, nil
}

// Rollback implements admin.Migrations.
func (m *migrations) Rollback(_ context.Context, o admin.SoakOrder) (admin.SoakOrder, error) {
	return soakOrder(m.engine.Rollback(migrate.BatchID(o.Batch), o.Users))
}

// Finalise implements admin.Migrations.
func (m *migrations) Finalise(_ context.Context, o admin.SoakOrder) (admin.SoakOrder, error) {
	return soakOrder(m.engine.Finalise(migrate.BatchID(o.Batch), o.Users))
}

// Cutover implements admin.Migrations.
func (m *migrations) Cutover(_ context.Context, o admin.SoakOrder) (admin.SoakOrder, error) {
	return soakOrder(m.engine.Cutover(migrate.BatchID(o.Batch), o.Users))
}

// AwaitOrders implements admin.Migrations.
func (m *migrations) AwaitOrders(ctx context.Context, o admin.SoakOrder, fn func(admin.Move) error) error {
	b, err := m.engine.Summary(migrate.BatchID(o.Batch))
	if err != nil {
		return err
	}
	return m.engine.AwaitOrders(ctx, b.ID, o.Users, func(u migrate.UserStatus) error { return fn(shownMove(b, &u)) })
}

func soakOrder(id migrate.BatchID, users []string, err error) (admin.SoakOrder, error) {
	return admin.SoakOrder{Batch: string(id), Users: users}, err
}
