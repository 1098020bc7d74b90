package directory

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/google/uuid"
)

const (
	beatEvery   = 15 * time.Second // a pushed feed is asked whether it lives
	pollDirSync = 2 * time.Second
	pollByTime  = 30 * time.Second
	fullByTime  = time.Hour
	fullPushed  = 24 * time.Hour
	saveEvery   = time.Minute
	retryFirst  = time.Second
	retryLast   = 30 * time.Second
)

// oidSync is the control of RFC 4533.
const oidSync = ldap.ControlTypeSyncRequest

var (
	errTooMany  = errors.New("the directory has more users than a replica may hold")
	errStartNew = errors.New("everything is read anew")
)

// feed is one connection over which a replica is kept.
type feed struct {
	r      *Replica
	c      *ldapConn
	server string
	ad     bool
	naming string // the domain's root; empty without ad
	idAttr string
}

// run keeps the replica until ctx ends.
func (r *Replica) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.wg.Go(func() {
		for wait(ctx, saveEvery) {
			_ = r.save() // it logs
		}
	})
	pause := retryFirst
	for {
		began := r.now()
		err := r.session(ctx)
		r.mu.Lock()
		wasLive := r.live
		r.live = false
		r.note()
		r.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errStartNew):
			r.forgetCookie()
			pause = 0
		case errors.Is(err, errTooMany):
			r.log.Error("there is no replica of this directory", "error", err, "limit", r.o.MaxUsers)
			return
		case wasLive || r.now().Sub(began) > retryLast:
			pause = retryFirst
			r.log.Warn("the feed of the directory's replica ended", "error", err)
		default:
			r.log.Warn("the directory's replica is not fed", "error", err)
		}
		if !wait(ctx, pause) {
			return
		}
		pause = min(max(2*pause, retryFirst), retryLast)
	}
}

// wait reports false when ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (r *Replica) forgetCookie() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.head.Cookie = nil
}

// session follows the first server that answers for as long as it can.
func (r *Replica) session(ctx context.Context) error {
	f, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer f.c.close()
	defer context.AfterFunc(ctx, f.c.sever)()
	root, err := f.ask(ctx, "supportedControl", "supportedCapabilities", "defaultNamingContext")
	if err != nil {
		return err
	}
	f.ad, f.idAttr = hasValue(root, "supportedCapabilities", oidAD), "entryUUID"
	if f.ad {
		f.naming, f.idAttr = root.GetAttributeValue("defaultNamingContext"), "objectGUID"
	}
	if ad, ok := r.src.form.(*activeDirectory); ok {
		if _, _, err := ad.identity(ctx); err != nil { // names are not understood without
			return err
		}
	}
	kind := r.o.Feed
	if kind == FeedAuto {
		kind = FeedPoll
		if f.ad && hasValue(root, "supportedControl", ldap.ControlTypeDirSync) {
			kind = FeedDirSync
		} else if hasValue(root, "supportedControl", oidSync) {
			kind = FeedSyncrepl
		}
	}
	r.mu.Lock()
	if r.head.Feed != kind || r.head.Server != f.server {
		r.head.Cookie = nil // it means nothing there
	}
	r.head.Feed, r.head.Server = kind, f.server
	r.mu.Unlock()
	err = f.follow(ctx, kind)
	if r.o.Feed == FeedAuto && kind != FeedPoll && notOffered(err) && ctx.Err() == nil {
		r.log.Info("the server refuses its feed, changes are looked for by time", "feed", kind, "error", err)
		r.mu.Lock()
		r.head.Feed, r.head.Cookie = FeedPoll, nil
		r.mu.Unlock()
		return f.poll(ctx)
	}
	return err
}

func (f *feed) follow(ctx context.Context, kind string) error {
	switch kind {
	case FeedSyncrepl:
		return f.syncrepl(ctx)
	case FeedDirSync:
		return f.dirSync(ctx)
	}
	return f.poll(ctx)
}

// notOffered: a feed that needs rights or a module that is not there.
func notOffered(err error) bool {
	return ldap.IsErrorAnyOf(err, ldap.LDAPResultUnavailableCriticalExtension, ldap.LDAPResultUnwillingToPerform,
		ldap.LDAPResultInsufficientAccessRights, ldap.LDAPResultSizeLimitExceeded, ldap.LDAPResultAdminLimitExceeded)
}

// connect leaves the health of servers to the lookups.
func (r *Replica) connect(ctx context.Context) (*feed, error) {
	var errs []error
	for _, s := range r.src.servers {
		c, err := s.dial(ctx, searchIdentity)
		if err == nil {
			return &feed{r: r, c: c, server: s.url}, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// ask reads the rootDSE within the request timeout; a connection that is mute
// is severed.
func (f *feed) ask(ctx context.Context, attributes ...string) (*ldap.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, f.r.src.o.RequestTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, f.c.sever)
	defer stop()
	return rootDSE(f.c.Conn, attributes...)
}

// search runs one request of a feed; a server may take ten times as long for
// it as for a lookup.
func (f *feed) search(ctx context.Context, req *ldap.SearchRequest) (*ldap.SearchResult, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*f.r.src.o.RequestTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, f.c.sever)
	defer stop()
	return f.c.Search(req)
}

func (f *feed) request(filter string, attributes ...string) *ldap.SearchRequest {
	return &ldap.SearchRequest{BaseDN: f.r.src.o.Base, Scope: ldap.ScopeWholeSubtree, DerefAliases: ldap.NeverDerefAliases,
		Filter: filter, Attributes: attributes}
}

// id is what an entry keeps for life. A server that shows none is told by DN;
// a rename is then a new entry until all is read anew.
func (f *feed) id(in *ldap.Entry) (id entryID) {
	raw := in.GetEqualFoldRawAttributeValue(f.idAttr)
	if len(raw) == len(id) {
		copy(id[:], raw)
		return id
	}
	if u, err := uuid.ParseBytes(raw); err == nil {
		return entryID(u)
	}
	sum := sha256.Sum256([]byte(strings.ToLower(in.DN)))
	copy(id[:], sum[:])
	return id
}

// loadAll reads all users, page by page, into a table of its own. newest is the
// latest value of stamp, when there is one.
func (f *feed) loadAll(ctx context.Context, stamp string) (t *entryTable, newest string, err error) {
	t = newEntryTable(f.r.table.names)
	newest, err = f.pages(ctx, f.r.src.o.ListFilter, stamp, func(in *ldap.Entry) error {
		t.put(f.id(in), trim(in, f.r.wanted))
		return f.r.room(t)
	})
	return t, newest, err
}

func (r *Replica) room(t *entryTable) error {
	if len(t.rows) > r.o.MaxUsers {
		return errTooMany
	}
	return nil
}

// pages calls fn for each entry that filter finds.
func (f *feed) pages(ctx context.Context, filter, stamp string, fn func(*ldap.Entry) error) (newest string, err error) {
	attributes := append([]string{f.idAttr}, f.r.wanted...)
	if stamp != "" {
		attributes = append(attributes, stamp)
	}
	paging := ldap.NewControlPaging(listPage)
	req := f.request(filter, attributes...)
	req.Controls = []ldap.Control{paging}
	for {
		res, err := f.search(ctx, req)
		if err != nil {
			return newest, err
		}
		for _, in := range res.Entries {
			newest = max(newest, in.GetEqualFoldAttributeValue(stamp))
			if err := fn(in); err != nil {
				return newest, err
			}
		}
		next, ok := ldap.FindControl(res.Controls, ldap.ControlTypePaging).(*ldap.ControlPaging)
		if !ok || len(next.Cookie) == 0 {
			return newest, nil
		}
		paging.SetCookie(next.Cookie)
	}
}

// replace puts a table in place that was read in full; differences are told.
func (r *Replica) replace(t *entryTable, cookie []byte) {
	r.mu.Lock()
	old := r.table
	r.table, r.doubt = t, map[entryID]struct{}{}
	r.head.Complete, r.head.Cookie, r.dirty = r.now(), cookie, true
	r.contact()
	r.mu.Unlock()
	var was, is []*ldap.Entry
	for id, row := range old.all() {
		if t.rows[id] != row {
			was, is = append(was, old.get(id)), append(is, t.get(id))
		}
	}
	r.tell(append(was, is...)...)
}

// contact notes that what is known is true now. The caller holds mu.
func (r *Replica) contact() {
	r.head.Contact = r.now()
	r.live = true
	r.note()
}

// touch is contact for a feed that has nothing new. The file learns of it, too.
func (r *Replica) touch(cookie []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if cookie != nil {
		r.head.Cookie = cookie
	}
	r.dirty = true
	r.contact()
}

// put files an entry that changed.
func (r *Replica) put(id entryID, in *ldap.Entry) error {
	in = trim(in, r.wanted)
	r.mu.Lock()
	old := r.table.get(id)
	changed := r.table.put(id, in)
	delete(r.doubt, id)
	r.dirty = r.dirty || changed
	err := r.room(r.table)
	if changed {
		r.note()
	}
	r.mu.Unlock()
	if changed {
		r.tell(old, in)
	}
	return err
}

// drop removes an entry that is gone.
func (r *Replica) drop(id entryID) {
	r.mu.Lock()
	old := r.table.get(id)
	r.table.delete(id)
	delete(r.doubt, id)
	r.dirty = true
	r.note()
	r.mu.Unlock()
	r.tell(old)
}

// tell passes on what entries were or are; passwords may have changed, too.
func (r *Replica) tell(entries ...*ldap.Entry) {
	var ids, names []string
	for _, in := range entries {
		if in == nil {
			continue
		}
		r.src.known.forget(in.DN)
		ids = append(ids, in.DN)
		for _, attr := range r.table.names {
			names = append(names, in.GetEqualFoldAttributeValues(attr)...)
		}
	}
	if r.o.Changed != nil && len(ids) > 0 {
		r.o.Changed(r.Name(), ids, names)
	}
}

// keepOnly drops all but those that were seen.
func (r *Replica) keepOnly(seen map[entryID]struct{}) {
	var gone []entryID
	r.mu.Lock()
	for id := range r.table.all() {
		if _, ok := seen[id]; !ok {
			gone = append(gone, id)
		}
	}
	r.mu.Unlock()
	for _, id := range gone {
		r.drop(id)
	}
}

// poll looks for changes by time.
func (f *feed) poll(ctx context.Context) error {
	stamp := "modifyTimestamp"
	if f.ad {
		stamp = "whenChanged"
	}
	r := f.r
	t, newest, err := f.loadAll(ctx, stamp)
	if err != nil {
		return err
	}
	r.replace(t, nil)
	full := r.now().Add(orDuration(r.o.Full, fullByTime))
	for wait(ctx, orDuration(r.o.Poll, pollByTime)) {
		if !r.now().Before(full) {
			return errStartNew
		}
		filter := r.src.o.ListFilter
		if newest != "" {
			filter = fmt.Sprintf("(&%s(%s>=%s))", filter, stamp, newest)
		}
		last, err := f.pages(ctx, filter, stamp, func(in *ldap.Entry) error { return r.put(f.id(in), in) })
		if err != nil {
			return err
		}
		newest = max(newest, last)
		r.touch(nil)
	}
	return ctx.Err()
}

func orDuration(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}
