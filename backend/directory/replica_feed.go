package directory

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/go-ldap/ldap/v3"
)

// syncrepl lets the server push changes (RFC 4533). Without a cookie all
// entries come first, into a table of their own; with one, what changed, and
// which of the others are still there.
func (f *feed) syncrepl(ctx context.Context) error {
	r := f.r
	ctx, cancel := context.WithTimeout(ctx, orDuration(r.o.Full, fullPushed))
	defer cancel()
	r.mu.Lock()
	cookie := r.head.Cookie
	r.mu.Unlock()
	s := &syncState{r: r, seen: map[entryID]struct{}{}}
	if len(cookie) == 0 {
		s.fresh = newEntryTable(r.table.names)
	}
	beats := make(chan struct{})
	defer func() { <-beats }()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		defer close(beats)
		f.beat(ctx, s)
	}()
	req := f.request(r.src.o.ListFilter, r.wanted...)
	res := f.c.Syncrepl(ctx, req, 64, ldap.SyncRequestModeRefreshAndPersist, cookie, false)
	for res.Next() {
		if err := s.take(res); err != nil {
			return err
		}
	}
	switch err := res.Err(); {
	case ldap.IsErrorWithCode(err, ldap.LDAPResultSyncRefreshRequired), errors.Is(ctx.Err(), context.DeadlineExceeded):
		return errStartNew
	case err != nil:
		return err
	}
	return errors.New("the server ended the feed")
}

// beat asks a silent server whether it is there; one that does not answer
// loses the connection, which ends the feed.
func (f *feed) beat(ctx context.Context, s *syncState) {
	for wait(ctx, orDuration(f.r.o.Poll, beatEvery)) {
		if _, err := f.ask(ctx, "1.1"); err != nil {
			f.c.sever()
			return
		}
		f.r.mu.Lock()
		if f.r.live {
			f.r.contact()
		}
		f.r.mu.Unlock()
	}
}

// syncState is where a synchronisation stands.
type syncState struct {
	r     *Replica
	fresh *entryTable          // until all has come, when there was no cookie
	seen  map[entryID]struct{} // during the refresh, when there was one
	done  bool                 // the refresh is over
}

// take handles one message.
func (s *syncState) take(res ldap.Response) error {
	for _, c := range res.Controls() {
		var err error
		switch c := c.(type) {
		case *ldap.ControlSyncState:
			err = s.entry(entryID(c.EntryUUID), c.State, res.Entry())
			s.cookie(c.Cookie)
		case *ldap.ControlSyncInfo:
			s.info(c)
		case *ldap.ControlSyncDone:
			return errStartNew // the server does not persist
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *syncState) entry(id entryID, state ldap.ControlSyncStateState, in *ldap.Entry) error {
	if !s.done {
		s.seen[id] = struct{}{}
	}
	switch {
	case state == ldap.SyncStateDelete:
		delete(s.seen, id)
		s.r.drop(id)
	case state == ldap.SyncStatePresent || in == nil:
	case s.fresh != nil:
		s.fresh.put(id, trim(in, s.r.wanted))
		return s.r.room(s.fresh)
	default:
		return s.r.put(id, in)
	}
	return nil
}

func (s *syncState) info(c *ldap.ControlSyncInfo) {
	switch {
	case c.NewCookie != nil:
		s.cookie(c.NewCookie.Cookie)
	case c.SyncIdSet != nil:
		for _, u := range c.SyncIdSet.SyncUUIDs {
			if c.SyncIdSet.RefreshDeletes {
				s.r.drop(entryID(u))
			} else if !s.done {
				s.seen[entryID(u)] = struct{}{}
			}
		}
		s.cookie(c.SyncIdSet.Cookie)
	case c.RefreshPresent != nil:
		if s.fresh == nil && !s.done {
			s.r.keepOnly(s.seen)
			s.seen = map[entryID]struct{}{}
		}
		s.refreshed(c.RefreshPresent.RefreshDone, c.RefreshPresent.Cookie)
	case c.RefreshDelete != nil:
		s.refreshed(c.RefreshDelete.RefreshDone, c.RefreshDelete.Cookie)
	}
}

// refreshed ends a phase of the refresh, the last one when over.
func (s *syncState) refreshed(over bool, cookie []byte) {
	if over && s.fresh != nil {
		s.r.replace(s.fresh, cookie)
		s.fresh = nil
	}
	if over {
		s.done, s.seen = true, nil
		s.r.touch(cookie)
		return
	}
	s.cookie(cookie)
}

// cookie is where the next synchronisation goes on; before all has come there
// is nothing to go on from.
func (s *syncState) cookie(cookie []byte) {
	if len(cookie) > 0 && s.done {
		s.r.touch(cookie)
	}
}

// dirSync asks a domain for what changed. What comes tells which entries, and
// these are read anew, as a change has only the attributes that changed.
func (f *feed) dirSync(ctx context.Context) error {
	r := f.r
	r.mu.Lock()
	cookie := r.head.Cookie
	r.mu.Unlock()
	if len(cookie) == 0 {
		// The place comes first, so that no change between is missed.
		var err error
		if cookie, err = f.changes(ctx, nil, func(*ldap.Entry) error { return nil }); err != nil {
			return err
		}
		t, _, err := f.loadAll(ctx, "")
		if err != nil {
			return err
		}
		r.replace(t, cookie)
	}
	full := r.now().Add(orDuration(r.o.Full, fullPushed))
	for {
		next, err := f.changes(ctx, cookie, func(in *ldap.Entry) error { return f.reread(ctx, in) })
		if err != nil {
			return err
		}
		cookie = next
		r.touch(cookie)
		if !wait(ctx, orDuration(r.o.Poll, pollDirSync)) {
			return ctx.Err()
		}
		if !r.now().Before(full) {
			return errStartNew
		}
	}
}

// changes calls fn for each user or former user that changed since cookie.
func (f *feed) changes(ctx context.Context, cookie []byte, fn func(*ldap.Entry) error) ([]byte, error) {
	for {
		req := f.request("(objectClass=user)", "objectGUID", "isDeleted", "name")
		req.BaseDN = f.naming
		if cookie != nil {
			req.Attributes = append(req.Attributes, f.r.wanted...)
		}
		control := ldap.NewRequestControlDirSync(ldap.DirSyncObjectSecurity, 0, cookie)
		req.Controls = []ldap.Control{control}
		res, err := f.search(ctx, req)
		if err != nil {
			return nil, err
		}
		for _, in := range res.Entries {
			if err := fn(in); err != nil {
				return nil, err
			}
		}
		answer, ok := ldap.FindControl(res.Controls, ldap.ControlTypeDirSync).(*ldap.ControlDirSync)
		if !ok || len(answer.Cookie) == 0 {
			return nil, fmt.Errorf("the server answers without saying where to go on")
		}
		cookie = answer.Cookie
		if answer.Flags == 0 {
			return cookie, nil
		}
	}
}

// reread takes over one entry as it is now.
func (f *feed) reread(ctx context.Context, changed *ldap.Entry) error {
	id := f.id(changed)
	if strings.EqualFold(changed.GetEqualFoldAttributeValue("isDeleted"), "TRUE") {
		f.r.drop(id)
		return nil
	}
	req := f.request(f.r.src.o.ListFilter, append([]string{f.idAttr}, f.r.wanted...)...)
	req.BaseDN, req.Scope = changed.DN, ldap.ScopeBaseObject
	res, err := f.search(ctx, req)
	if err != nil && !ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject) {
		return err
	}
	if err != nil || len(res.Entries) != 1 || !below(res.Entries[0].DN, f.r.src.o.Base) || f.id(res.Entries[0]) != id {
		f.r.drop(id)
		return nil
	}
	return f.r.put(id, res.Entries[0])
}

// below reports whether a DN is base or under it, in any case.
func below(dn, base string) bool {
	d, err := ldap.ParseDN(dn)
	if err != nil {
		return false
	}
	b, err := ldap.ParseDN(base)
	return err == nil && (b.EqualFold(d) || b.AncestorOfFold(d))
}
