package migrate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
	"mailferry/migrate/target"
)

// soakDir holds, beside the batches, a directory per soaking user: the map of
// UIDs between the two stores, and the journals of what is carried either way.
const soakDir = ".soak"

func (e *Engine) soakDir(id BatchID, user string) string {
	sum := sha256.Sum256([]byte(string(id) + "\x00" + user))
	return filepath.Join(e.opt.Dir, soakDir, hex.EncodeToString(sum[:12]))
}

// reverse makes the old store follow the new one. It is used by one goroutine.
type reverse struct {
	acct *account        // reads the new store
	imp  target.Follower // the old store
	cert *Certificate    // of the flip
	held bool            // a hold was begun with it
	same map[backend.MailboxName]sameAs
	late []LateMail
	// Of the last compare.
	exceptions []Exception
	messages   uint64
}

// sameAs are the counters of a mailbox on both sides when they were compared.
type sameAs struct{ here, there remote.Status }

// given is an Importer for an Import that is there already.
type given struct{ imp backend.Import }

func (g given) Import(context.Context, string, backend.ImportOptions) (backend.Import, error) {
	return g.imp, nil
}

// openReverse reads the certificate of the flip, which says what both stores
// had in common, and opens the map.
func (d *driver) openReverse(ctx context.Context) error {
	if d.rev != nil && !d.rev.held {
		return nil
	}
	d.closeReverse()
	if err := d.findRoute(ctx); err != nil {
		return err
	}
	cert, err := readCertificate(d.b.journal.dir, d.user)
	if errors.Is(err, fs.ErrNotExist) || err == nil && cert.Flipped == nil {
		return backend.Errorf(backend.KindInvalid, "The certificate of the flip is lost: nobody knows what the stores had in common.", "user %q", d.user)
	}
	if err != nil {
		return err
	}
	r := &reverse{cert: cert, same: make(map[backend.MailboxName]sameAs)}
	rules := &target.Rules{Delete: true, DeleteFolders: true, MassDelete: true}
	imp, err := target.New(target.Options{Dir: d.e.soakDir(d.b.spec.ID, d.user), Dial: d.dialSource, Rules: rules, Log: d.log,
		Settle: d.e.timing.Settle, Exact: &target.Exact{Boxes: r.boxes}}).Import(ctx, d.route.entry.User, backend.ImportOptions{Namespace: cert.Namespace})
	if err != nil {
		return err
	}
	r.imp = imp.(target.Follower)
	r.acct = newAccount(d.route.entry.User, func(ctx context.Context) (*remote.Client, error) {
		return d.e.opt.Own(ctx, d.route.entry.User)
	}, given{imp})
	r.acct.log, r.acct.single = d.log, true
	r.acct.imp, r.acct.namespace, r.acct.ordered = imp, cert.Namespace, true
	r.acct.imported = make(map[backend.MailboxName]backend.ImportedMailbox)
	d.rev = r
	return nil
}

func (d *driver) closeReverse() {
	if d.rev != nil {
		d.rev.acct.close() // and the map with it
		d.rev = nil
	}
}

// boxes are the old store's mailboxes, with what the certificate says of them.
func (r *reverse) boxes(a *remote.Account) []target.ExactBox {
	common := make(map[string]*MailboxCertificate, len(r.cert.Mailboxes))
	for k := range r.cert.Mailboxes {
		common[r.cert.Mailboxes[k].Name] = &r.cert.Mailboxes[k]
	}
	var out []target.ExactBox
	for _, p := range makePlan(a).boxes {
		x := target.ExactBox{Name: p.name, Raw: p.raw, Selectable: !p.hollow}
		if p.known {
			x.Status = &p.status
		}
		if m := common[p.shown]; m != nil {
			x.UIDValidity, x.UIDNext, x.HighestModSeq = m.UIDValidity, m.UIDNext, m.HighestModSeq
		}
		out = append(out, x)
	}
	return out
}

// pass carries late mail over, and then what changed at the new store.
func (r *reverse) pass(ctx context.Context) (late int, p *pass, err error) {
	c, err := r.acct.connected(ctx)
	if err != nil {
		return 0, nil, err
	}
	mail, err := r.imp.Watch(ctx, c)
	for _, m := range mail {
		r.late = append(r.late, LateMail{Mailbox: r.cert.Namespace.Show(m.Mailbox), UID: m.UID, As: m.As, Seen: time.Now().UTC().Truncate(time.Second)})
	}
	if err != nil {
		r.acct.drop()
		return len(mail), nil, err
	}
	p, err = r.acct.sync(ctx)
	if err == nil {
		err = p.err()
	}
	return len(mail), p, err
}

// displace puts the messages that cannot have their UIDs behind all others.
func (r *reverse) displace(ctx context.Context) error {
	any := false
	for _, name := range r.acct.names() {
		if len(r.imp.Displaced(name)) > 0 {
			any = true
			r.acct.boxes[name].modseq = 0 // compared message by message
		}
	}
	if !any {
		return nil
	}
	r.imp.Displace(true)
	p, err := r.acct.sync(ctx)
	if err == nil {
		err = p.err()
	}
	return err
}

// compare proves that the old store has what the new one has: the same
// mailboxes, UIDs, flags and subscriptions. What cannot be equal is an exception.
// Before a hold the user is at work: there, what changed at the new store since the
// last pass is no difference.
func (r *reverse) compare(ctx context.Context, hold bool) error {
	r.exceptions, r.messages = nil, 0
	here, err := r.acct.survey(ctx)
	if err != nil {
		return err
	}
	var there *plan
	if err := r.imp.Use(ctx, func(c *remote.Client) error {
		a, err := c.Survey(ctx)
		if err == nil {
			there = makePlan(a)
		}
		return err
	}); err != nil {
		return err
	}
	old := make(map[backend.MailboxName]planned)
	for _, p := range there.boxes {
		old[p.name] = p
	}
	for _, p := range here.boxes {
		o, ok := old[p.name]
		delete(old, p.name)
		switch {
		case p.hollow:
		case !ok || o.hollow:
			if hold || r.acct.boxes[p.name] != nil {
				return errDiffers(p.shown, "not at the old store")
			}
		default:
			err := r.compareBox(ctx, p, o)
			if backend.IsKind(err, backend.KindConflict) && !hold {
				var changed bool
				if changed, err = r.changed(ctx, p, err); changed {
					continue
				}
			}
			if err != nil {
				return err
			}
		}
	}
	for _, o := range old {
		if !o.hollow && (hold || r.acct.boxes[o.name] == nil) {
			return errDiffers(o.shown, "only at the old store")
		}
	}
	if !sameNames(here.subscriptions, there.subscriptions) {
		r.except("", 0, "subscriptions differ")
	}
	return nil
}

// changed reports whether a mailbox of the new store changed since the last pass;
// else differs, or what kept us from asking, is the error.
func (r *reverse) changed(ctx context.Context, p planned, differs error) (bool, error) {
	b := r.acct.boxes[p.name]
	if b == nil {
		return true, nil
	}
	c, err := r.acct.connected(ctx)
	if err != nil {
		return false, err
	}
	sel, err := c.Examine(ctx, p.raw, remote.SelectOptions{})
	switch {
	case backend.IsKind(err, backend.KindNotFound):
		return true, nil
	case err != nil:
		return false, err
	case sel.HighestModSeq > b.modseq:
		return true, nil
	}
	return false, differs
}

func sameNames(x, y []backend.MailboxName) bool {
	x, y = slices.Clone(x), slices.Clone(y)
	slices.Sort(x)
	slices.Sort(y)
	return slices.Equal(x, y)
}

func (r *reverse) except(box string, uid imap.UID, what string) {
	if len(r.exceptions) < maxNotes {
		r.exceptions = append(r.exceptions, Exception{Mailbox: box, UID: uid, What: what})
	}
}

// compareBox compares a mailbox, unless its counters say that nothing changed
// since it was.
func (r *reverse) compareBox(ctx context.Context, p, o planned) error {
	now := sameAs{p.status, o.status}
	if p.status.UIDValidity != o.status.UIDValidity {
		r.except(p.shown, 0, fmt.Sprintf("UIDVALIDITY is %d here, %d at the old store: clients download the mailbox anew", p.status.UIDValidity, o.status.UIDValidity))
	}
	if o.status.UIDNext < p.status.UIDNext {
		return errDiffers(p.shown, "UIDNEXT %d here, %d at the old store", p.status.UIDNext, o.status.UIDNext)
	}
	at, err := r.imp.At(p.name)
	if err != nil {
		return err
	}
	r.messages += uint64(p.status.Messages)
	if r.same[p.name] == now && now.here.HighestModSeq > 0 && now.there.HighestModSeq > 0 && p.known && o.known {
		return nil
	}
	own, err := r.listOwn(ctx, p)
	if err != nil {
		return err
	}
	theirs, err := r.listOld(ctx, o)
	if err != nil {
		return err
	}
	waits := make(map[imap.UID]bool) // until the hold
	for _, uid := range r.imp.Displaced(p.name) {
		waits[uid] = true
	}
	if b := r.acct.boxes[p.name]; b != nil && len(b.skipped) > len(waits) {
		return errDiffers(p.shown, "%d messages cannot be carried to the old store", len(b.skipped)-len(waits))
	}
	if len(own.entries) != len(theirs.entries)+len(waits) {
		return errDiffers(p.shown, "%d messages here, %d at the old store", len(own.entries), len(theirs.entries))
	}
	var wrong []backend.ImportFlags
	for k := range own.entries {
		e := &own.entries[k]
		if waits[e.uid] {
			continue
		}
		uid := at(e.uid)
		n := theirs.index(uid)
		if n < 0 {
			return errDiffers(p.shown, "UID %d is not at the old store", e.uid)
		}
		if uid != e.uid {
			r.except(p.shown, e.uid, fmt.Sprintf("UID %d here is UID %d at the old store: clients download it anew", e.uid, uid))
		}
		if !sameFlags(own.flags(e), theirs.flags(&theirs.entries[n])) {
			wrong = append(wrong, backend.ImportFlags{UID: e.uid, Flags: own.flags(e)})
		}
	}
	if len(wrong) > 0 {
		return r.repair(ctx, p, o, wrong)
	}
	r.same[p.name] = now
	return nil
}

// repair sets flags that somebody changed at the old store, and looks again;
// what the store does not take remains an exception.
func (r *reverse) repair(ctx context.Context, p, o planned, wrong []backend.ImportFlags) error {
	if err := r.imp.Repair(ctx, p.name, wrong); err != nil {
		return err
	}
	at, err := r.imp.At(p.name)
	if err != nil {
		return err
	}
	theirs, err := r.listOld(ctx, o)
	if err != nil {
		return err
	}
	for _, w := range wrong {
		n := theirs.index(at(w.UID))
		if n < 0 {
			return errDiffers(p.shown, "UID %d is not at the old store", w.UID)
		}
		if got := theirs.flags(&theirs.entries[n]); !sameFlags(w.Flags, got) {
			r.except(p.shown, w.UID, fmt.Sprintf("flags are %v here, %v at the old store", w.Flags, got))
		}
	}
	return nil
}

func (r *reverse) listOwn(ctx context.Context, p planned) (*listing, error) {
	c, err := r.acct.connected(ctx)
	if err != nil {
		return nil, err
	}
	sel, err := c.Examine(ctx, p.raw, remote.SelectOptions{})
	if err != nil {
		return nil, err
	}
	return list(ctx, c, sel, &r.acct.flags, "")
}

func (r *reverse) listOld(ctx context.Context, o planned) (l *listing, err error) {
	err = r.imp.Use(ctx, func(c *remote.Client) error {
		sel, err := c.Examine(ctx, o.raw, remote.SelectOptions{})
		if err != nil {
			return err
		}
		l, err = list(ctx, c, sel, &r.acct.flags, "")
		return err
	})
	return l, err
}

// notes are the exceptions as of now, before and after a roll-back.
func (r *reverse) notes() []Exception {
	out := slices.Clone(r.exceptions)
	for _, n := range r.imp.Notes() {
		out = append(out, Exception{Mailbox: r.cert.Namespace.Show(n.Mailbox), UID: n.UID, What: n.What, Skipped: n.Skipped})
	}
	for _, name := range r.acct.names() {
		for uid, why := range r.acct.boxes[name].skipped {
			out = append(out, Exception{Mailbox: r.acct.boxes[name].shown, UID: uid, What: why})
		}
	}
	slices.SortFunc(out, compareExceptions)
	return slices.Compact(out)
}
