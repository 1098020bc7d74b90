package app

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"mailferry/backend"
	"mailferry/backend/remote"
	"mailferry/internal/admin"
	"mailferry/internal/config"
	"mailferry/proxy"
	"mailferry/store"
)

// Users that verify-routes looks at side by side.
const (
	verifyParallel    = 8
	maxVerifyParallel = 64
)

// VerifyRoutes implements admin.Routes. The stores of the user's move group are asked
// by delegated login, our own by its table.
func (r *routes) VerifyRoutes(ctx context.Context, q admin.RouteCheck, fn func(admin.RouteVerdict) error) error {
	if q.Parallel < 0 || q.Parallel > maxVerifyParallel {
		return backend.Errorf(backend.KindInvalid, "", "parallel: %d is not between 1 and %d", q.Parallel, maxVerifyParallel)
	}
	if q.Parallel == 0 {
		q.Parallel = verifyParallel
	}
	var mu sync.Mutex
	say := func(v admin.RouteVerdict) error {
		mu.Lock()
		defer mu.Unlock()
		return fn(v)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(q.Parallel)
	err := r.eachRoute(ctx, &q, say, func(e backend.Entry) {
		g.Go(func() error {
			v := r.verify(ctx, e)
			if ctx.Err() != nil {
				return ctx.Err() // what was found says nothing
			}
			return say(v)
		})
	})
	if e := g.Wait(); e != nil {
		return e
	}
	return err
}

// eachRoute calls fn with the users that are meant, and say with those who
// cannot be known.
func (r *routes) eachRoute(ctx context.Context, q *admin.RouteCheck, say func(admin.RouteVerdict) error, fn func(backend.Entry)) error {
	if len(q.Users) > 0 {
		for _, name := range q.Users {
			e, err := r.dirs.fresh(ctx, name)
			if err != nil {
				if err := say(unfit(backend.Entry{User: name}, err)); err != nil {
					return err
				}
				continue
			}
			fn(e)
		}
		return nil
	}
	for i := range r.conf.Directories {
		d := &r.conf.Directories[i]
		if d.Type != config.DirectoryRegex && d.Type != config.DirectoryHTTP {
			continue
		}
		text := "this directory cannot list its users: name them on the command line"
		if err := say(admin.RouteVerdict{User: "*", Directory: d.Name, Verdict: admin.VerdictUnknown, Text: text}); err != nil {
			return err
		}
	}
	seen := map[string]struct{}{} // the first directory that knows a user counts
	for e, err := range r.dirs.Users(ctx, q.Where) {
		if err != nil && e.User == "" && e.ID == "" {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			if err := say(unfit(e, err)); err != nil {
				return err
			}
			continue
		}
		if _, again := seen[strings.ToLower(e.User)]; again {
			continue
		}
		if len(r.conf.Directories) > 1 {
			seen[strings.ToLower(e.User)] = struct{}{}
		}
		fn(e)
	}
	return nil
}

// unfit is the verdict on a user of whom the directories give no route.
func unfit(e backend.Entry, err error) admin.RouteVerdict {
	v := admin.RouteVerdict{User: e.User, Directory: e.Directory, Verdict: admin.VerdictAmbiguous, Text: err.Error()}
	if v.User == "" {
		v.User = e.ID
	}
	switch {
	case backend.IsKind(err, backend.KindNotFound):
		v.Verdict, v.Text = admin.VerdictUnrouted, "no directory knows this user"
	case backend.IsKind(err, backend.KindUnavailable):
		v.Verdict = admin.VerdictUnknown
	}
	return v
}

// verify compares one route with what the stores say.
func (r *routes) verify(ctx context.Context, e backend.Entry) admin.RouteVerdict {
	v := admin.RouteVerdict{User: e.User, Directory: e.Directory, Verdict: admin.VerdictUnknown}
	p, placed, err := r.places.Placement(ctx, e.User)
	if err != nil {
		v.Text = err.Error()
		return v
	}
	if v.Placed = placed; p.State == backend.PlacementHolding {
		v.Text = "the user is being moved"
		return v
	}
	route, err := r.find(&e, &p, placed)
	if err == nil && !placed && e.Host != "" && !route.Store.Local() {
		route.Host = e.Host
	}
	if err != nil {
		v.Verdict, v.Text = admin.VerdictUnrouted, err.Error()
		return v
	}
	v.Store = route.Store.Name
	v.Found = append(v.Found, r.lookFor(ctx, route))
	for _, name := range r.groupOf(v.Store) {
		if st, host, err := r.routes.Find(name); err == nil && name != v.Store {
			v.Found = append(v.Found, r.lookFor(ctx, backend.Route{User: e.User, Store: st, Host: host}))
		}
	}
	v.Verdict, v.Text = judge(v.Found, placed)
	return v
}

// groupOf lists the stores between which users of a store may move.
func (r *routes) groupOf(name string) []string {
	for _, g := range r.conf.MoveGroups {
		if contains(g.Stores, name) {
			return g.Stores
		}
	}
	return nil
}

// judge compares the first store, where the route leads, with the others.
func judge(found []admin.Found, placed bool) (verdict, text string) {
	at := &found[0]
	var elsewhere, silent []string
	for i := range found[1:] {
		switch f := &found[1+i]; {
		case f.Messages > 0:
			elsewhere = append(elsewhere, fmt.Sprintf("%s has %d messages", f.Store, f.Messages))
		case !f.There && f.Error != "" && !f.Refused:
			silent = append(silent, fmt.Sprintf("%s: %s", f.Store, f.Error))
		}
	}
	others := strings.Join(elsewhere, ", ")
	switch {
	case at.Error != "" && !at.Refused:
		return admin.VerdictUnknown, at.Store + ": " + at.Error
	case !at.There && others != "":
		return admin.VerdictMissing, "no mailbox at " + at.Store + ", but " + others
	case !at.There && len(silent) > 0:
		return admin.VerdictUnknown, "no mailbox at " + at.Store + "; " + strings.Join(silent, "; ")
	case !at.There && at.Refused:
		return admin.VerdictNowhere, "no mailbox at " + at.Store + ": " + at.Error
	case !at.There:
		return admin.VerdictNowhere, "no mailbox at " + at.Store
	case placed || others == "":
		return admin.VerdictRight, strings.Join(silent, "; ")
	case at.Messages == 0:
		return admin.VerdictMissing, "no mail at " + at.Store + ", but " + others
	}
	return admin.VerdictTwice, fmt.Sprintf("%s has %d messages, and %s", at.Store, at.Messages, others)
}

// lookFor asks a store for a user's mailboxes.
func (r *routes) lookFor(ctx context.Context, route backend.Route) admin.Found {
	f := admin.Found{Store: route.Store.Name}
	var err error
	if route.Store.Local() {
		err = r.lookAtHome(ctx, route.User, &f)
	} else {
		err = r.lookAbroad(ctx, route, &f)
	}
	if err != nil {
		f.Error = err.Error()
		f.Refused = backend.IsKind(err, backend.KindAuthentication)
	}
	return f
}

func (r *routes) lookAtHome(ctx context.Context, user string, f *admin.Found) error {
	if r.store == nil {
		return backend.NewError(backend.KindUnavailable, "this node has not the role store")
	}
	have, err := r.store.User(ctx, user)
	if backend.IsKind(err, backend.KindNotFound) || err == nil && have.State != store.UserActive {
		return nil
	}
	if err != nil {
		return err
	}
	account, err := r.store.Account(ctx, have.Name)
	if err != nil {
		return err
	}
	boxes, err := account.Mailboxes(ctx)
	for _, b := range boxes {
		if !b.NoSelect {
			f.There = true
			f.Mailboxes++
			f.Messages += int64(b.Messages)
		}
	}
	return err
}

// lookAbroad logs in by delegation. A store that refuses the login has no such
// user, as far as one can tell.
func (r *routes) lookAbroad(ctx context.Context, route backend.Route, f *admin.Found) error {
	if m := route.Store.Login.Mode; m == backend.LoginUser || m == "" {
		return backend.NewError(backend.KindPermission, "needs the user's own password: configure login authzid or master to ask it")
	}
	st := *route.Store
	st.Ports = map[backend.Protocol]int{backend.IMAP: proxy.PortOf(route, backend.IMAP)}
	conn, err := remote.DialIMAP(ctx, remote.Target{Store: &st, Host: route.Host, User: route.User, Session: "verify-routes"})
	if err != nil {
		return err
	}
	c := remote.NewClient(conn)
	defer c.Logout()
	account, err := c.Survey(ctx)
	if err != nil {
		return err
	}
	for i := range account.Mailboxes {
		b := &account.Mailboxes[i]
		if b.Selectable() && !within(b.Raw, account.Namespaces.Other, account.Namespaces.Shared) {
			f.There = true
			f.Mailboxes++
			if b.Status != nil {
				f.Messages += int64(b.Status.Messages)
			}
		}
	}
	return nil
}

// within reports whether a mailbox is in one of these namespaces, and so not
// the user's own.
func within(raw string, lists ...[]backend.Namespace) bool {
	for _, list := range lists {
		for _, n := range list {
			if n.Prefix != "" && strings.HasPrefix(raw, n.Prefix) {
				return true
			}
		}
	}
	return false
}
