package app

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"path/filepath"

	"mailferry/backend"
	"mailferry/backend/remote"
	"mailferry/internal/admin"
	"mailferry/internal/imapsync"
	"mailferry/migrate"
	foreign "mailferry/migrate/target"
)

// CopyAccount is one user of a copy, by their names and passwords on both sides.
type CopyAccount struct {
	From, To                 string
	FromPassword, ToPassword backend.Secret // of users who log in themselves
}

// CopyOptions are a copy between two foreign servers without a node.
type CopyOptions struct {
	// Dir keeps the state: a later copy of the same accounts goes on from it.
	Dir      string
	From, To *backend.Store
	Accounts []CopyAccount // From names them: each once
	Filter   *migrate.Filter
	Rules    *foreign.Rules
	Dry      bool
	// Parallel accounts are copied at a time; 0: 4. Where the stores bound no
	// connections themselves, each takes one more than that.
	Parallel int
	Reread   int // as migrate.BatchSpec has it
	Logger   *slog.Logger
	Timing   migrate.Timing
}

// CopyResult is how a copy ended.
type CopyResult struct {
	Batch admin.Batch
	// Reports are the certificates by user.
	Reports map[string]*migrate.Certificate
	// Dir holds the certificates as files.
	Dir string
}

// Copy copies accounts between two foreign servers, tells show how far it is,
// and ends when all are done or ctx ends; what is done by then is not done again
// by the next call.
func Copy(ctx context.Context, o CopyOptions, show func(*admin.Batch)) (*CopyResult, error) {
	o.Parallel = cmp.Or(o.Parallel, 4)
	o.From, o.To = roomFor(o.From, o.Parallel), roomFor(o.To, o.Parallel)
	accounts := make(map[string]CopyAccount, len(o.Accounts))
	spec := migrate.BatchSpec{From: o.From.Name, To: o.To.Name, Dry: o.Dry, CopyOnly: true, Parallel: o.Parallel, Filter: o.Filter,
		Rules: o.Rules, Reread: o.Reread, Prove: -1, Attempts: 5, POP3: migrate.POP3Never}
	if o.From.Ports[backend.POP3] != 0 && o.To.Ports[backend.POP3] != 0 {
		spec.POP3 = migrate.POP3Auto
	}
	for _, a := range o.Accounts {
		if _, ok := accounts[a.From]; ok {
			return nil, backend.Errorf(backend.KindInvalid, "An account is named twice.", "user %q", a.From)
		}
		accounts[a.From] = a
		spec.Users = append(spec.Users, a.From)
	}
	e, err := migrate.New(migrate.Options{Dir: o.Dir, NoResume: true, Placements: nowhere{}, Logger: o.Logger, Timing: o.Timing,
		Stores: map[string]*backend.Store{o.From.Name: o.From, o.To.Name: o.To},
		Lookup: func(_ context.Context, user string) (backend.Entry, error) {
			return backend.Entry{User: user, Directory: "command line", Store: o.From.Name}, nil
		},
		Account: func(s *backend.Store, user string) (string, backend.Secret) {
			a := accounts[user]
			if s == o.To {
				return a.To, a.ToPassword
			}
			return a.From, a.FromPassword
		}})
	if err != nil {
		return nil, err
	}
	defer e.Close()
	id, err := e.Start(ctx, spec)
	if err != nil {
		return nil, err
	}
	changes, err := e.Watch(ctx, id)
	if err != nil {
		return nil, err
	}
	res := &CopyResult{Reports: make(map[string]*migrate.Certificate), Dir: filepath.Join(o.Dir, string(id))}
	moves := make(map[string]admin.Move, len(spec.Users))
	for st := range changes {
		res.Batch = shownBatch(st)
		for _, m := range res.Batch.Moves { // those that changed
			moves[m.User] = m
		}
		show(&res.Batch)
	}
	res.Batch.Moves = nil
	for _, u := range spec.Users {
		if m, ok := moves[u]; ok {
			res.Batch.Moves = append(res.Batch.Moves, m)
		}
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	for _, u := range spec.Users {
		if c, err := e.CertificateIn(id, u); err == nil {
			res.Reports[u] = c
		} else if !backend.IsKind(err, backend.KindNotFound) {
			return res, err
		}
	}
	return res, nil
}

// roomFor lets a store be asked for a connection of each of so many users, and for
// one more: by default a store of unknown kind is asked for fewer.
func roomFor(s *backend.Store, users int) *backend.Store {
	room := *s
	if room.MaxConnections == 0 {
		room.MaxConnections = max(remote.ProfileOf(s.Type).Connections, users+1)
	}
	return &room
}

// nowhere has no placements: nobody is moved.
type nowhere struct{}

var errNowhere = backend.NewError(backend.KindInvalid, "A copy moves nobody.")

func (nowhere) Get(context.Context, string) (p backend.Placement, ok bool, err error) {
	return p, false, nil
}
func (nowhere) Swap(context.Context, backend.Placement) error { return errNowhere }
func (nowhere) AwaitQuiet(context.Context, string, uint64) ([]backend.Confirmation, error) {
	return nil, errNowhere
}
func (nowhere) AwaitResumed(context.Context, string, uint64) ([]backend.Resumption, error) {
	return nil, errNowhere
}
func (nowhere) All(context.Context) ([]backend.Placement, error) { return nil, nil }

// copyRules reads imapsync's options into a batch.
func copyRules(spec *migrate.BatchSpec, options string) error {
	if options == "" {
		return nil
	}
	invalid := func(err error) error {
		return backend.Errorf(backend.KindInvalid, "", "the options of the copy are not understood: %w", err)
	}
	words, err := imapsync.Split(options)
	if err != nil {
		return invalid(err)
	}
	job, err := imapsync.Parse(words)
	if err != nil {
		return invalid(err)
	}
	if job.From.Host+job.From.User+job.To.Host+job.To.User != "" {
		return invalid(errors.New("hosts and users are those of the stores and of the batch"))
	}
	job.Rules.NoACL = job.NoSyncACLs
	spec.Filter, spec.Rules, spec.Dry = &job.Filter, &job.Rules, spec.Dry || job.Dry
	return nil
}
