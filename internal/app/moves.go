package app

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"mailferry/backend"
	"mailferry/internal/admin"
	"mailferry/internal/config"
	"mailferry/migrate"
)

// buildMigration makes the engine of moves. It needs our own store, which is
// where users move to.
func (a *App) buildMigration(context.Context) error {
	if !a.conf.HasRole(config.RoleMigrate) || a.store == nil {
		return nil
	}
	metrics, err := migrationMetrics(a.o.Registry)
	if err != nil {
		return err
	}
	stores := map[string]*backend.Store{}
	for _, s := range a.stores {
		stores[s.Name] = s
	}
	hooks, err := moveHooks(a.conf.Migrate.Hooks)
	if err != nil {
		return err
	}
	a.moves, err = migrate.New(migrate.Options{
		Hooks: hooks,
		Dir:   a.path(dirMoves), Importer: a.store.Importer(), Placements: a.places,
		Lookup: a.dirs.fresh, SetStore: a.dirs.SetStore, Stores: stores,
		Logger: a.log.With("part", "migrate"), Metrics: metrics, Holds: a.conf.Migrate.Holds,
		Own:    a.readOwn,
		Timing: migrate.Timing{Hold: a.conf.Migrate.HoldLimit, Quiet: a.conf.Migrate.ConfirmTime, Soak: a.conf.Migrate.SoakPoll},
	})
	if err != nil {
		return err
	}
	if err := a.o.Registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "mailferry_migrate_waiting_for_login_users",
		Help: "Users whose moves wait for their next login."}, func() float64 { return float64(a.moves.WaitingForLogin()) })); err != nil {
		return err
	}
	a.parts = append(a.parts, part{name: "migration", serve: untilDone,
		stop: func(context.Context) error { return a.moves.Close() }}) // bounded by the longest hold
	return nil
}

// moveHooks are the configured hooks in the engine's terms.
func moveHooks(list []config.Hook) (hooks []migrate.Hook, err error) {
	for _, c := range list {
		h := migrate.Hook{Name: c.Name, Command: c.Command, URL: c.URL, Secret: c.Secret, Named: c.Named, Timeout: c.Timeout}
		for _, name := range c.States {
			var s migrate.State
			if err := s.UnmarshalText([]byte(name)); err != nil {
				return nil, fmt.Errorf("hook %s: %w", c.Name, err)
			}
			h.States = append(h.States, s)
		}
		hooks = append(hooks, h)
	}
	return hooks, nil
}

// untilDone is the service of a part that works in goroutines of its own.
func untilDone(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// resumeMoves goes on with what a stop or a crash interrupted. A journal that
// cannot be read is reported and left alone: it must not keep the mail away.
func (a *App) resumeMoves(ctx context.Context) error {
	if a.moves == nil {
		return nil
	}
	if err := a.moves.Resume(ctx); err != nil {
		a.log.Error("not every batch of moves goes on", "error", err)
	}
	return ctx.Err()
}

func (a *App) addMigrationService(s *admin.Service) {
	if a.moves != nil {
		m := &migrations{app: a, engine: a.moves}
		s.Migrations, s.Verifications = m, m
	}
}

// migrations is the engine of moves as the admin API sees it.
type migrations struct {
	app    *App
	engine *migrate.Engine
}

// Start implements admin.Migrations.
func (m *migrations) Start(ctx context.Context, r admin.MoveRequest) (admin.Batch, error) {
	spec, err := m.spec(&r)
	if err != nil {
		return admin.Batch{}, err
	}
	if r.Where != "" {
		if spec.Users, err = m.selected(ctx, r.Where, r.From); err != nil {
			return admin.Batch{}, err
		}
	}
	if err := m.byLastLogin(spec); err != nil {
		return admin.Batch{}, err
	}
	if r.Limit > 0 {
		if spec.Users, err = m.first(ctx, spec, r.Limit); err != nil {
			return admin.Batch{}, err
		}
	}
	return m.start(ctx, *spec)
}

// spec is a request in the engine's terms.
func (m *migrations) spec(r *admin.MoveRequest) (*migrate.BatchSpec, error) {
	if err := m.checkStores(r.From, r.To); err != nil {
		return nil, err
	}
	spec := &migrate.BatchSpec{Users: r.Users, From: r.From, To: r.To, Parallel: cmp.Or(r.Parallel, m.app.conf.Migrate.Parallel),
		Dry: r.Dry, CopyOnly: r.CopyOnly, OnOrder: r.OnOrder, Order: migrate.Order(r.Order), WaveSize: r.WaveSize, Hooks: r.Hooks,
		Reread: r.Reread, Prove: r.Prove,
		POP3: migrate.POP3Mode(cmp.Or(r.POP3, m.app.conf.Migrate.POP3)), ForcePOP3: r.ForcePOP3}
	if err := copyRules(spec, r.Copy); err != nil {
		return nil, err
	}
	for name, o := range r.Each {
		if err := m.checkStores(o.From, o.To); err != nil {
			return nil, fmt.Errorf("user %q: %w", name, err)
		}
		if spec.Each == nil {
			spec.Each = make(map[string]migrate.UserOptions, len(r.Each))
		}
		spec.Each[name] = migrate.UserOptions{From: o.From, To: o.To, Login: o.Login, Password: backend.Secret(o.Password),
			PasswordFile: o.PasswordFile, Priority: o.Priority, LastLogin: o.LastLogin, Size: o.Size, NotBefore: o.NotBefore, Wave: o.Wave}
	}
	var err error
	if spec.Soak, err = m.soak(r.Soak); err != nil {
		return nil, err
	}
	invalid := func(err error) error { return backend.Errorf(backend.KindInvalid, "", "%w", err) }
	if spec.Window, err = migrate.ParseWindows(r.Window, time.Local); err != nil {
		return nil, invalid(err)
	}
	if spec.FlipWindow, err = migrate.ParseWindows(r.FlipWindow, time.Local); err != nil {
		return nil, invalid(err)
	}
	if spec.StopAt, err = migrate.ParseStopRule(r.StopAt); err != nil {
		return nil, invalid(err)
	}
	return spec, nil
}

// first are the first users of a batch, by priority, who neither are at their new
// store nor move already.
func (m *migrations) first(ctx context.Context, spec *migrate.BatchSpec, limit int) (users []string, err error) {
	for _, u := range spec.InOrder() {
		if len(users) == limit {
			break
		}
		e, err := m.app.dirs.Lookup(ctx, u)
		switch {
		case backend.IsKind(err, backend.KindNotFound): // the batch will say so
		case err != nil:
			return nil, err
		case m.home(ctx, &e) == spec.Target(u), m.engine.Moves(u):
			continue
		}
		users = append(users, u)
	}
	if len(users) == 0 {
		return nil, backend.Errorf(backend.KindNotFound, "", "all %d users are at their new store, or move already", len(spec.Users))
	}
	return users, nil
}

func (m *migrations) start(ctx context.Context, spec migrate.BatchSpec) (admin.Batch, error) {
	id, err := m.engine.Start(ctx, spec)
	if err != nil {
		return admin.Batch{}, err
	}
	return m.Batch(ctx, string(id))
}

// checkStores names the stores that there are when one is not.
func (m *migrations) checkStores(names ...string) error {
	var known []string
	for _, s := range m.app.stores {
		known = append(known, s.Name)
	}
	for _, name := range names {
		if name != "" && !contains(known, name) {
			return backend.Errorf(backend.KindInvalid, "", "there is no store %q; stores are %v", name, known)
		}
	}
	return nil
}

func contains(list []string, s string) bool {
	for _, e := range list {
		if e == s {
			return true
		}
	}
	return false
}

// selected asks the directories for users, and keeps those who live on from.
func (m *migrations) selected(ctx context.Context, filter, from string) ([]string, error) {
	var users []string
	for e, err := range m.app.dirs.Users(ctx, filter) {
		if err != nil {
			return nil, err
		}
		if from == "" || m.home(ctx, &e) == from {
			users = append(users, e.User)
		}
	}
	if len(users) == 0 {
		return nil, backend.Errorf(backend.KindNotFound, "", "no user matches %q", filter)
	}
	return users, nil
}

// home is the name of the store on which a user lives, empty when it is not known.
func (m *migrations) home(ctx context.Context, e *backend.Entry) string {
	if p, ok, err := m.app.places.Placement(ctx, e.User); err == nil && ok {
		return p.Store
	}
	s, _, err := m.app.routes.Find(e.Store)
	if err != nil {
		return ""
	}
	return s.Name
}

// Batches implements admin.Migrations.
func (m *migrations) Batches(ctx context.Context) (list []admin.Batch, err error) {
	all, err := m.engine.Batches(ctx)
	for _, b := range all {
		list = append(list, shownBatch(b))
	}
	return list, err
}

// id is the batch that is meant: the latest when none is named.
func (m *migrations) id(ctx context.Context, id string) (migrate.BatchID, error) {
	if id != "" {
		return migrate.BatchID(id), nil
	}
	all, err := m.engine.Batches(ctx)
	if err != nil {
		return "", err
	}
	if len(all) == 0 {
		return "", backend.NewError(backend.KindNotFound, "no batch was ever started")
	}
	return all[0].ID, nil
}

// Batch implements admin.Migrations.
func (m *migrations) Batch(ctx context.Context, id string) (admin.Batch, error) {
	batch, err := m.id(ctx, id)
	if err != nil {
		return admin.Batch{}, err
	}
	b, err := m.engine.Summary(batch)
	if err != nil {
		return admin.Batch{}, err
	}
	return shownBatch(b), nil
}

// Moves implements admin.Migrations.
func (m *migrations) Moves(ctx context.Context, q admin.MoveQuery) (admin.MovePage, error) {
	batch, err := m.id(ctx, q.Batch)
	if err != nil {
		return admin.MovePage{}, err
	}
	b, err := m.engine.Summary(batch)
	if err != nil {
		return admin.MovePage{}, err
	}
	want := map[string]bool{}
	for _, name := range q.States {
		var s migrate.State
		if err := s.UnmarshalText([]byte(name)); err != nil {
			return admin.MovePage{}, backend.Errorf(backend.KindInvalid, "", "%w; states are %s", err, strings.Join(migrate.StateNames(), ", "))
		}
		want[name] = true
	}
	if q.Limit <= 0 || q.Limit > admin.MaxPage {
		q.Limit = admin.MaxPage
	}
	users, next, err := m.engine.Users(batch, q.From, q.Limit, func(u *migrate.UserStatus) bool {
		return (len(want) == 0 || want[u.State.String()]) && (!q.Failed || shownMove(b, u).Failed)
	})
	page := admin.MovePage{Next: next, Moves: []admin.Move{}}
	for i := range users {
		page.Moves = append(page.Moves, shownMove(b, &users[i]))
	}
	return page, err
}

// Watch implements admin.Migrations.
func (m *migrations) Watch(ctx context.Context, id string, fn func(admin.Batch) error) error {
	batch, err := m.id(ctx, id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the channel
	changes, err := m.engine.Watch(ctx, batch)
	if err != nil {
		return err
	}
	for b := range changes {
		if err := fn(shownBatch(b)); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Report implements admin.Migrations.
func (m *migrations) Report(_ context.Context, user string) ([]byte, error) {
	return m.engine.CertificateText(user)
}

// Page implements admin.Migrations.
func (m *migrations) Page(_ context.Context, user string) ([]byte, error) {
	c, err := m.engine.Certificate(user)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = migrate.WritePage(&b, c)
	return b.Bytes(), err
}

// Pause implements admin.Migrations.
func (m *migrations) Pause(ctx context.Context, id string) error {
	return m.tell(ctx, id, m.engine.Pause)
}

// Resume implements admin.Migrations.
func (m *migrations) Resume(ctx context.Context, id string) error {
	return m.tell(ctx, id, m.engine.Continue)
}

// Stop implements admin.Migrations.
func (m *migrations) Stop(ctx context.Context, id string) error {
	return m.tell(ctx, id, m.engine.Stop)
}

func (m *migrations) tell(ctx context.Context, id string, order func(migrate.BatchID) error) error {
	batch, err := m.id(ctx, id)
	if err != nil {
		return err
	}
	return order(batch)
}

// Retry implements admin.Migrations: the users who failed become a new batch.
func (m *migrations) Retry(ctx context.Context, id string) (admin.Batch, error) {
	batch, err := m.id(ctx, id)
	if err != nil {
		return admin.Batch{}, err
	}
	spec, err := m.engine.RetrySpec(batch)
	if err != nil {
		return admin.Batch{}, err
	}
	return m.start(ctx, spec)
}

// shownBatch is a batch as the admin API has it.
func shownBatch(b *migrate.BatchStatus) admin.Batch {
	out := admin.Batch{ID: string(b.ID), From: b.From, To: b.To, Paused: b.Paused, Stopped: b.Stopped, Done: b.Finished, Passwords: b.Passwords,
		Waits: b.Waits, Wave: b.Wave, Waves: b.Waves, Users: b.Total, Running: b.Running, States: map[string]int{},
		Messages: b.Messages, MessagesDone: b.MessagesDone, Bytes: b.Octets, BytesDone: b.OctetsDone,
		Share: b.Share, Rate: b.Rate, Left: b.Left, Elapsed: b.Worked}
	for s, n := range b.Counts {
		out.States[s.String()] = n
		switch m := shownMove(b, &migrate.UserStatus{State: s}); {
		case s == migrate.RolledBack:
			out.RolledBack += n
		case m.Failed:
			out.Failed += n
		case m.Done:
			out.Moved += n
		}
	}
	for i := range b.Users {
		out.Moves = append(out.Moves, shownMove(b, &b.Users[i]))
	}
	return out
}

func shownMove(b *migrate.BatchStatus, u *migrate.UserStatus) admin.Move {
	m := admin.Move{User: u.User, State: u.State.String(), Running: u.Running, Reason: u.Reason, Tries: u.Tries, Messages: u.Messages,
		MessagesDone: u.MessagesDone, Bytes: u.Octets, BytesDone: u.OctetsDone, Rate: u.Rate, Elapsed: u.Elapsed,
		SoakUntil: u.SoakUntil, Ordered: u.Ordered}
	switch u.State {
	case migrate.Final:
		m.Done = true
	case migrate.Failed:
		m.Done, m.Failed = true, true
	case migrate.RolledBack: // as somebody ordered it
		m.Done = true
	case migrate.Flipped, migrate.Soaking:
		m.Done = b.Finished
	default:
		m.Done = b.Finished
		if m.Done && u.State != b.Until { // --dry and --copy-only end earlier
			m.Failed = true
			m.Reason = cmp.Or(u.Reason, fmt.Sprintf("the batch was stopped while the user was %s", u.State))
		}
	}
	return m
}
