package target

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// mailbox is one mailbox at the target: a backend.OrderedImport.
type mailbox struct {
	i    *account
	name backend.MailboxName
	raw  string // at the target
	want string // the name that the target refused; empty: none
	file int
	m    *uidMap

	// Guarded by i.mu.
	failed  error            // it cannot be created or opened
	checked bool             // the map fits the target
	broken  int              // i.broken, as of the last check
	sel     *remote.Selected // as of when it was opened; nil: not yet
	adopt   *adoption        // what the target has and the map does not
	resent  map[[8]byte]int  // sent a second time: the first may have arrived late
	base    uint32           // of resent

	state   sync.Mutex          // below i.mu
	refused map[imap.UID]string // guarded by state
	next    uint32              // the target's UIDNEXT is not below it; guarded by state
	exists  uint32              // at the target, as far as we know; guarded by state
}

// seen takes over what the target tells of the mailbox.
func (b *mailbox) seen(exists, next uint32) {
	b.state.Lock()
	defer b.state.Unlock()
	b.exists, b.next = exists, max(b.next, next, 1)
}

// filed counts messages that the target has filed under UIDs up to last.
func (b *mailbox) filed(n int, last imap.UID) {
	b.state.Lock()
	defer b.state.Unlock()
	b.exists, b.next = b.exists+uint32(n), max(b.next, uint32(last)+1)
}

func (b *mailbox) counters() (exists, next uint32) {
	b.state.Lock()
	defer b.state.Unlock()
	return b.exists, b.next
}

// begin makes ready for the messages of a source's mailbox; callers hold i.mu.
func (b *mailbox) begin(ctx context.Context, validity uint32) error {
	if h := b.m.header(); h.SrcValidity != validity {
		if h.SrcValidity != 0 { // another mailbox: what is equal will be known again
			if err := b.m.reset(mapHeader{}); err != nil {
				return err
			}
			b.checked, b.sel, b.adopt, b.resent = false, nil, nil, nil
		}
		if err := b.m.setHead(func(h *mapHeader) { h.SrcValidity = validity }); err != nil {
			return err
		}
	}
	return b.check(ctx)
}

// check makes the map fit the target; callers hold i.mu.
func (b *mailbox) check(ctx context.Context) error {
	if b.checked && b.broken == b.i.broken {
		return nil
	}
	if err := b.i.quiesce(); err != nil {
		return err
	}
	if b.checked { // only what was on the way can be wrong
		if err := b.resolve(ctx); err != nil {
			return err
		}
		b.broken = b.i.broken
		return nil
	}
	if b.sel == nil {
		if err := b.open(ctx); err != nil {
			return err
		}
	}
	sel, h := b.sel, b.m.header()
	if h.DstValidity != 0 && h.DstValidity != sel.UIDValidity {
		b.i.note(backend.ImportNote{Mailbox: b.name, What: "the target's mailbox is another one than at the last run: compared anew"})
		if err := b.m.reset(mapHeader{SrcValidity: h.SrcValidity}); err != nil {
			return err
		}
	}
	b.seen(sel.Exists, sel.UIDNext)
	if err := b.m.setHead(func(h *mapHeader) { h.DstValidity = sel.UIDValidity }); err != nil {
		return err
	}
	stored, doubts := b.m.counts()
	if doubts > 0 {
		if err := b.resolve(ctx); err != nil {
			return err
		}
		stored, _ = b.m.counts()
	}
	if stored > 0 || sel.Exists > 0 {
		if err := b.reconcile(ctx); err != nil {
			return err
		}
	}
	b.checked, b.broken = true, b.i.broken
	return nil
}

// open selects the mailbox; callers hold i.mu.
func (b *mailbox) open(ctx context.Context) error {
	return b.i.do(ctx, func(c *remote.Client) (err error) {
		b.sel, err = c.SelectMailbox(ctx, b.raw)
		return err
	})
}

// selected makes it the open mailbox of the connection; callers hold i.mu.
func (b *mailbox) selected(ctx context.Context, fn func(*remote.Client) error) error {
	return b.i.do(ctx, func(c *remote.Client) error {
		sel, err := c.SelectMailbox(ctx, b.raw)
		if err != nil {
			return err
		}
		if h := b.m.header(); h.DstValidity != 0 && sel.UIDValidity != h.DstValidity {
			b.checked, b.sel = false, nil
			return &decided{backend.Errorf(backend.KindTemporary, "A mailbox of the target was replaced.", "mailbox %q: UIDVALIDITY %d became %d",
				b.raw, h.DstValidity, sel.UIDValidity)}
		}
		b.sel = sel
		return fn(c)
	})
}

// NewBody implements backend.MailboxImport.
func (b *mailbox) NewBody(ctx context.Context) (backend.BodyWriter, error) {
	return newBody(ctx, b.i.o.Dir), nil
}

// Put implements backend.MailboxImport.
func (b *mailbox) Put(ctx context.Context, msgs []backend.ImportMessage) error {
	wait, err := b.PutOrdered(ctx, msgs)
	if err != nil {
		return err
	}
	return wait()
}

// Refused implements backend.OrderedImport.
func (b *mailbox) Refused() map[imap.UID]string {
	b.state.Lock()
	defer b.state.Unlock()
	return maps.Clone(b.refused)
}

// sending is a batch on its way.
type sending struct {
	msgs    []backend.ImportMessage
	recs    []record
	appends []*remote.Append // of step messages each
	step    int
	box     *mailbox
	once    sync.Once
	failed  error // of file
}

// part are the records of append k.
func (s *sending) part(k int) []record {
	return s.recs[k*s.step : min((k+1)*s.step, len(s.recs))]
}

// file waits for the answers and takes over the UIDs that they tell.
func (s *sending) file() error {
	s.once.Do(func() {
		for k, a := range s.appends {
			recs := s.part(k)
			if a.Wait() != nil || len(a.UIDs) != len(recs) || a.UIDValidity != s.box.m.header().DstValidity {
				continue // finish looks into it
			}
			for n := range recs {
				if err := s.box.m.settle(imap.UID(recs[n].src), stateStored, a.UIDs[n]); err != nil {
					s.failed = err
					return
				}
			}
			s.box.filed(len(recs), a.UIDs[len(a.UIDs)-1])
		}
	})
	return s.failed
}

// PutOrdered implements backend.OrderedImport.
func (b *mailbox) PutOrdered(ctx context.Context, msgs []backend.ImportMessage) (func() error, error) {
	b.i.mu.Lock()
	defer b.i.mu.Unlock()
	todo, err := b.take(ctx, msgs)
	var s *sending
	if err == nil {
		s, err = b.send(ctx, todo)
	}
	if err != nil {
		discard(msgs)
		return nil, err
	}
	return func() error {
		defer discard(msgs)
		return b.finish(ctx, s)
	}, nil
}

func discard(msgs []backend.ImportMessage) {
	for _, m := range msgs {
		m.Body.Discard()
	}
}

// take leaves out what need not be sent; callers hold i.mu.
func (b *mailbox) take(ctx context.Context, msgs []backend.ImportMessage) ([]backend.ImportMessage, error) {
	if err := b.check(ctx); err != nil {
		return nil, err
	}
	var limit int64
	if b.sel == nil {
		if err := b.open(ctx); err != nil {
			return nil, err
		}
	}
	if b.i.client != nil {
		limit = b.i.client.AppendLimit()
	}
	if m := b.i.o.Rules.MaxSize; m > 0 && (limit == 0 || m < limit) {
		limit = m
	}
	if b.adopt != nil {
		if err := b.claim(ctx, msgs); err != nil {
			return nil, err
		}
	}
	todo := make([]backend.ImportMessage, 0, len(msgs))
	for _, m := range msgs {
		rec, known, err := b.m.get(m.UID)
		switch {
		case err != nil:
			return nil, err
		case known && rec.state == stateStored:
		case known && rec.state == stateDoubt: // on its way already
		case limit > 0 && m.Body.Size() > limit:
			if err := b.refuse(m, fmt.Sprintf("it has %d octets, the target takes %d", m.Body.Size(), limit)); err != nil {
				return nil, err
			}
		default:
			todo = append(todo, m)
		}
	}
	return todo, nil
}

// send records what is to be sent, and sends it; callers hold i.mu.
func (b *mailbox) send(ctx context.Context, msgs []backend.ImportMessage) (*sending, error) {
	s := &sending{msgs: msgs, box: b}
	if len(msgs) == 0 {
		return s, nil
	}
	_, next := b.counters()
	flags := make([][]imap.Flag, len(msgs))
	for k, m := range msgs {
		body := m.Body.(*body)
		s.recs = append(s.recs, record{src: uint32(m.UID), dst: next, size: uint32(min(body.size, 1<<32-1)), digest: body.sum})
		flags[k] = m.Flags
	}
	if b.i.app == nil {
		c, err := b.i.connect(ctx)
		if err != nil {
			return nil, err
		}
		if b.i.app, err = c.Appender(ctx, remote.AppendWindow{}); err != nil {
			b.i.drop()
			return nil, err
		}
	}
	if err := b.m.intend(s.recs, flags); err != nil {
		return nil, err
	}
	items := make([]remote.AppendMessage, len(msgs))
	soon := time.Now().Add(2 * time.Hour)
	for k, m := range msgs {
		body := m.Body.(*body)
		if m.InternalDate.After(soon) && b.i.client.Profile().Type == backend.StoreDovecot {
			b.i.note(backend.ImportNote{Mailbox: b.name, UID: m.UID, What: "its date lies in the future: Dovecot takes the present time for it"})
		}
		items[k] = remote.AppendMessage{Flags: b.allowed(m.UID, m.Flags), Date: m.InternalDate, Size: body.size, NUL: body.nul, Body: body}
	}
	err := b.sendItems(s, items)
	if err == nil && b.i.app != nil {
		b.i.sent = append(slices.DeleteFunc(b.i.sent, (*sending).answered), s)
	}
	return s, err
}

// sendItems sends all by one command where the target knows MULTIAPPEND.
func (b *mailbox) sendItems(s *sending, items []remote.AppendMessage) error {
	if s.step = len(items); !b.i.client.Has("MULTIAPPEND") {
		s.step = 1
	}
	for part := range slices.Chunk(items, s.step) {
		a, err := b.i.app.Send(b.raw, part)
		if err != nil {
			b.i.drop()
			if len(s.appends) > 0 {
				return nil // wait tells what the others met
			}
			return err
		}
		s.appends = append(s.appends, a)
	}
	return nil
}

// answered reports that file has nothing to wait for.
func (s *sending) answered() bool {
	for _, a := range s.appends {
		if !a.Answered() {
			return false
		}
	}
	return s.file() == nil
}

// finish takes the target's answers.
func (b *mailbox) finish(ctx context.Context, s *sending) error {
	if err := s.file(); err != nil {
		return err
	}
	for k, a := range s.appends {
		err := a.Wait()
		switch {
		case err == nil && len(a.UIDs) != len(s.part(k)):
			err = b.look(ctx, s.part(k)) // no UIDPLUS
		case err == nil && a.UIDValidity != b.m.header().DstValidity:
			err = backend.Errorf(backend.KindTemporary, "A mailbox of the target was replaced.", "mailbox %q", b.raw)
		case refusal(err):
			err = b.refusedBatch(ctx, s.msgs[k*s.step:][:len(s.part(k))], err)
		}
		if err != nil {
			return err
		}
	}
	if len(s.appends)*s.step < len(s.recs) {
		return backend.NewError(backend.KindUnavailable, "The connection to the target is lost.")
	}
	return nil
}

// look finds out what became of recs when the target did not tell their UIDs.
func (b *mailbox) look(ctx context.Context, recs []record) error {
	b.i.mu.Lock()
	defer b.i.mu.Unlock()
	if err := b.i.quiesce(); err != nil {
		return err
	}
	return b.settled(ctx, recs)
}

// settled looks for recs at the target, and fails when one is not there;
// callers hold i.mu.
func (b *mailbox) settled(ctx context.Context, recs []record) error {
	if err := b.resolve(ctx); err != nil {
		return err
	}
	for k := range recs {
		if r, ok, err := b.m.get(imap.UID(recs[k].src)); err != nil {
			return err
		} else if !ok || r.state != stateStored {
			return backend.Errorf(backend.KindTemporary, "The target does not keep what it takes.",
				"mailbox %q: the target said OK to a message (UID %d) and does not have it, or not as it was", b.raw, recs[k].src)
		}
	}
	return nil
}

// refusedBatch handles a NO to a batch: what concerns the mailbox ends it, else
// the messages that are at fault are found by halves.
func (b *mailbox) refusedBatch(ctx context.Context, msgs []backend.ImportMessage, cause error) error {
	b.i.mu.Lock()
	defer b.i.mu.Unlock()
	if err := b.i.quiesce(); err != nil {
		return err
	}
	if err := b.resolve(ctx); err != nil { // a NO is a claim
		return err
	}
	return b.halves(ctx, msgs, cause)
}

// halves sends messages again; callers hold i.mu, and nothing is on the way.
func (b *mailbox) halves(ctx context.Context, msgs []backend.ImportMessage, cause error) error {
	msgs, err := b.take(ctx, msgs)
	if err != nil || len(msgs) == 0 {
		return err
	}
	switch backend.KindOf(cause) {
	case backend.KindOverQuota:
		return backend.Errorf(backend.KindOverQuota, "The user is over quota at the target.", "mailbox %q: %w", b.raw, cause)
	case backend.KindTemporary, backend.KindUnavailable, backend.KindPermission:
		return cause
	case backend.KindNotFound:
		b.checked, b.sel, b.i.list = false, nil, nil // Prepare makes it again
		return backend.Errorf(backend.KindTemporary, "A mailbox of the target is gone.", "mailbox %q: %w", b.raw, cause)
	}
	if len(msgs) == 1 {
		return b.alone(ctx, msgs[0], cause)
	}
	for _, half := range [][]backend.ImportMessage{msgs[:len(msgs)/2], msgs[len(msgs)/2:]} {
		if err := b.again(ctx, half, nil); err != nil {
			return err
		}
	}
	return nil
}

// again sends messages and waits; what is refused is halved once more. plain
// changes how a single one is sent. Callers hold i.mu.
func (b *mailbox) again(ctx context.Context, msgs []backend.ImportMessage, plain func(*backend.ImportMessage)) error {
	sent := slices.Clone(msgs)
	if plain != nil {
		plain(&sent[0])
	}
	s, err := b.send(ctx, sent)
	if err != nil {
		return err
	}
	if err := b.i.quiesce(); err != nil {
		return err
	}
	var refused error
	for k, a := range s.appends {
		switch err := a.Wait(); {
		case err == nil && len(a.UIDs) != len(s.part(k)):
			if err := b.settled(ctx, s.part(k)); err != nil {
				return err
			}
		case err != nil && !refusal(err):
			return err
		case err != nil:
			refused = err
		}
	}
	if refused == nil {
		return nil
	}
	if err := b.resolve(ctx); err != nil {
		return err
	}
	if plain != nil {
		return refused
	}
	return b.halves(ctx, msgs, refused)
}

// alone finds out what of a message the target refuses: its keywords, or itself.
func (b *mailbox) alone(ctx context.Context, m backend.ImportMessage, cause error) error {
	var plain, left []imap.Flag
	for _, f := range m.Flags {
		if slices.ContainsFunc(systemFlags, func(s imap.Flag) bool { return strings.EqualFold(string(s), string(f)) }) {
			plain = append(plain, f)
		} else {
			left = append(left, f)
		}
	}
	if len(left) > 0 && backend.KindOf(cause) != backend.KindTooLarge {
		err := b.again(ctx, []backend.ImportMessage{m}, func(m *backend.ImportMessage) { m.Flags = plain })
		if err == nil {
			b.i.note(backend.ImportNote{Mailbox: b.name, UID: m.UID, What: fmt.Sprintf("the target refused the keywords %v: left out", left)})
			return b.m.setFlags(m.UID, m.Flags)
		}
		if !refusal(err) {
			return err
		}
		cause = err
	}
	return b.refuse(m, cause.Error())
}

// refuse keeps a message that the target will not take in a quarantine file.
func (b *mailbox) refuse(m backend.ImportMessage, why string) error {
	dir := filepath.Join(b.i.o.Dir, "quarantine")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(dir, fmt.Sprintf("%06d-%d.eml", b.file, m.UID))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = m.Body.(*body).WriteTo(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	why = fmt.Sprintf("the target refused it: %s (kept in %s)", why, path)
	b.i.o.Log.Warn("message refused", "mailbox", b.raw, "uid", m.UID, "why", why)
	b.state.Lock()
	defer b.state.Unlock()
	if b.refused == nil {
		b.refused = make(map[imap.UID]string)
	}
	b.refused[m.UID] = why
	return nil
}

// allowed leaves out flags that the mailbox does not keep (PERMANENTFLAGS), and
// reports them. A store that tells none keeps all, as far as we know.
func (b *mailbox) allowed(uid imap.UID, flags []imap.Flag) []imap.Flag {
	if b.sel == nil || len(b.sel.PermanentFlags) == 0 {
		return flags
	}
	keeps := func(f imap.Flag) bool {
		for _, p := range b.sel.PermanentFlags {
			if p == `\*` || strings.EqualFold(string(p), string(f)) {
				return true
			}
		}
		return false
	}
	if !slices.ContainsFunc(flags, func(f imap.Flag) bool { return !keeps(f) }) {
		return flags
	}
	var out []imap.Flag
	for _, f := range flags {
		if keeps(f) {
			out = append(out, f)
		} else {
			b.i.note(backend.ImportNote{Mailbox: b.name, What: fmt.Sprintf("the target does not keep the flag %q: left out", f)})
		}
	}
	return out
}

// SetFlags implements backend.MailboxImport.
func (b *mailbox) SetFlags(ctx context.Context, updates []backend.ImportFlags) error {
	if b.i.o.Rules.NoFlags {
		return nil
	}
	b.i.mu.Lock()
	defer b.i.mu.Unlock()
	if err := b.check(ctx); err != nil {
		return err
	}
	type group struct {
		dst   imap.UIDSet
		src   []imap.UID
		flags []imap.Flag
	}
	groups := make(map[string]*group)
	for _, u := range updates {
		r, ok, err := b.m.get(u.UID)
		if err != nil {
			return err
		}
		if !ok || r.state != stateStored || slices.Equal(b.m.flagsOf(r.flags), u.Flags) {
			continue
		}
		key := fmt.Sprint(u.Flags)
		g := groups[key]
		if g == nil {
			g = &group{flags: u.Flags}
			groups[key] = g
		}
		g.dst.AddNum(imap.UID(r.dst))
		g.src = append(g.src, u.UID)
	}
	if len(groups) == 0 {
		return nil
	}
	var todo []*group
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		todo = append(todo, groups[key])
	}
	return b.selected(ctx, func(c *remote.Client) error {
		var cmds []remote.FlagStore
		var of []*group
		for _, g := range todo {
			for part := range chunks(g.dst) {
				cmds, of = append(cmds, remote.FlagStore{UIDs: part, Flags: b.allowed(0, g.flags)}), append(of, g)
			}
		}
		errs, err := c.StoreFlags(ctx, cmds)
		if err != nil {
			return err
		}
		for k, err := range errs {
			if err != nil {
				b.i.note(backend.ImportNote{Mailbox: b.name, UID: of[k].src[0], What: fmt.Sprintf("the target refused the flags %v: %v", of[k].flags, err)})
			}
		}
		for _, g := range todo {
			for _, uid := range g.src {
				if err := b.m.setFlags(uid, g.flags); err != nil {
					return &decided{err}
				}
			}
		}
		return nil
	})
}

// chunks cuts a set; command lines are bounded.
func chunks(set imap.UIDSet) iter.Seq[imap.UIDSet] { return slices.Chunk(set, 200) }

// Vanish implements backend.MailboxImport. The target loses messages only where
// the rules say so.
func (b *mailbox) Vanish(ctx context.Context, uids imap.UIDSet, _ uint64) error {
	b.i.mu.Lock()
	defer b.i.mu.Unlock()
	var dst imap.UIDSet
	var src []imap.UID
	if err := b.m.each(func(r record) bool {
		if uids.Contains(imap.UID(r.src)) {
			src = append(src, imap.UID(r.src))
			if r.state == stateStored {
				dst.AddNum(imap.UID(r.dst))
			}
		}
		return true
	}); err != nil {
		return err
	}
	if b.i.o.Rules.Delete && len(dst) > 0 {
		if err := b.expunge(ctx, dst); err != nil {
			return err
		}
	} else if len(dst) > 0 {
		b.i.note(backend.ImportNote{Mailbox: b.name, What: "messages that were expunged at the old store stay at the target (delete is off)"})
	}
	b.state.Lock()
	for uid := range b.refused {
		if uids.Contains(uid) {
			delete(b.refused, uid)
		}
	}
	b.state.Unlock()
	for _, uid := range src {
		if err := b.m.settle(uid, stateGone, 0); err != nil {
			return err
		}
	}
	return nil
}

// expunge removes messages from the target, those and no others; callers hold
// i.mu.
func (b *mailbox) expunge(ctx context.Context, dst imap.UIDSet) error {
	return b.selected(ctx, func(c *remote.Client) error {
		if !c.Has("UIDPLUS") {
			b.i.note(backend.ImportNote{Mailbox: b.name, What: "the target cannot expunge single messages (UIDPLUS): they are marked \\Deleted"})
		}
		for part := range chunks(dst) {
			errs, err := c.StoreFlags(ctx, []remote.FlagStore{{UIDs: part, Flags: []imap.Flag{imap.FlagDeleted}, Add: true}})
			if err != nil {
				return err
			}
			if errs[0] != nil {
				return errs[0]
			}
			if c.Has("UIDPLUS") {
				if err := c.ExpungeUIDs(ctx, part); err != nil {
					return err
				}
				b.gone(part)
			}
		}
		return nil
	})
}

// gone counts messages that the target has expunged.
func (b *mailbox) gone(set imap.UIDSet) {
	b.state.Lock()
	defer b.state.Unlock()
	for _, r := range set {
		b.exists -= min(uint32(r.Stop-r.Start)+1, b.exists)
	}
}

// Seal implements backend.MailboxImport: it keeps the counters of both sides, so
// that a later run knows an unchanged mailbox without opening it.
func (b *mailbox) Seal(ctx context.Context, uidNext uint32, highestModSeq uint64, firstRecent uint32) error {
	b.i.mu.Lock()
	defer b.i.mu.Unlock()
	if err := b.check(ctx); err != nil {
		return err
	}
	if _, doubts := b.m.counts(); doubts > 0 {
		return backend.Errorf(backend.KindTemporary, "The target's answers are not complete.", "mailbox %q: %d messages in doubt", b.raw, doubts)
	}
	if len(b.resent) > 0 {
		if err := b.lateDoubles(ctx); err != nil {
			return err
		}
	}
	if err := b.deleteExtra(ctx); err != nil {
		return err
	}
	stored, _ := b.m.counts()
	exists, next := b.counters()
	return b.m.setHead(func(h *mapHeader) {
		h.UIDNext, h.ModSeq, h.FirstRecent, h.Count = uidNext, highestModSeq, firstRecent, stored
		h.DstMessages, h.DstUIDNext = exists, next
	})
}

// Messages implements backend.MailboxImport. Digest is that of identity.
func (b *mailbox) Messages(context.Context) iter.Seq2[backend.ImportedMessage, error] {
	return func(yield func(backend.ImportedMessage, error) bool) {
		on := true
		err := b.m.each(func(r record) bool {
			if r.state != stateStored {
				return true
			}
			m := backend.ImportedMessage{UID: imap.UID(r.src), ModSeq: 1<<64 - 1, Flags: b.m.flagsOf(r.flags), Size: int64(r.size)}
			copy(m.Digest[:], r.digest[:])
			on = yield(m, nil)
			return on
		})
		if err != nil && on {
			yield(backend.ImportedMessage{}, err)
		}
	}
}

// Reread implements backend.Rereader: bodies are fetched from the target. Those
// in which the target changed what stores use to change are noted and left out.
// Filed is known by a shorter digest only: it is Digest where that is right.
func (b *mailbox) Reread(ctx context.Context, pick func(imap.UID) bool) iter.Seq2[backend.RereadMessage, error] {
	return func(yield func(backend.RereadMessage, error) bool) {
		var picked []record
		err := b.m.each(func(r record) bool {
			if r.state == stateStored && pick(imap.UID(r.src)) {
				picked = append(picked, r)
			}
			return true
		})
		for part := range slices.Chunk(picked, 1000) {
			if err != nil {
				break
			}
			var read map[imap.UID]content
			if read, err = b.read(ctx, part); err != nil {
				break
			}
			for _, r := range part {
				got, ok := read[imap.UID(r.dst)]
				if !ok {
					continue // its owner may have expunged it at the target
				}
				m := backend.RereadMessage{UID: imap.UID(r.src), Size: got.size, FiledSize: int64(r.size), Digest: got.sha256, SHA1: got.sha1, Filed: got.sha256}
				switch {
				case r.digest == got.digest:
				case r.digest.id() == got.digest.id():
					b.i.note(backend.ImportNote{Mailbox: b.name, UID: m.UID, What: "the target rewrote octets of the message: line ends, NUL, or 8-bit in its header"})
					continue
				default:
					m.Filed = r.digest.wide()
				}
				if !yield(m, nil) {
					return
				}
			}
		}
		if err != nil {
			yield(backend.RereadMessage{}, err)
		}
	}
}

func (b *mailbox) read(ctx context.Context, recs []record) (read map[imap.UID]content, err error) {
	b.i.mu.Lock()
	defer b.i.mu.Unlock()
	var uids []imap.UID
	for _, r := range recs {
		uids = append(uids, imap.UID(r.dst))
	}
	slices.Sort(uids)
	err = b.selected(ctx, func(c *remote.Client) error {
		src := newDigester(uids)
		src.full = true
		read = src.got
		return c.FetchBodies(ctx, src, remote.Window{})
	})
	return read, err
}

// content is what the target gives for a message.
type content struct {
	digest digest
	size   int64
	sha256 [32]byte
	sha1   [20]byte
}

// contents fetches bodies of the selected mailbox and digests them.
func contents(ctx context.Context, c *remote.Client, uids []imap.UID) (map[imap.UID]content, error) {
	src := newDigester(uids)
	return src.got, c.FetchBodies(ctx, src, remote.Window{})
}

// digester is a remote.BodySource.
type digester struct {
	todo []imap.UID
	got  map[imap.UID]content
	last *content
	buf  []byte
	full bool // SHA-256 and SHA-1 of the octets, too
}

func newDigester(uids []imap.UID) *digester {
	return &digester{todo: uids, got: make(map[imap.UID]content), buf: make([]byte, 64<<10)}
}

func (d *digester) NextSet() (set imap.UIDSet, octets int64, ok bool) {
	if len(d.todo) == 0 {
		return nil, 0, false
	}
	n := min(len(d.todo), 100)
	set.AddNum(d.todo[:n]...)
	d.todo = d.todo[n:]
	return set, int64(n) * 16 << 10, true
}

func (d *digester) Body(size int64, r io.Reader) error {
	id := newIdentity()
	to, h256, h1 := io.Writer(id), sha256.New(), sha1.New()
	if d.full {
		to = io.MultiWriter(id, h256, h1)
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{r}, d.buf); err != nil {
		return err
	}
	d.last = &content{digest: id.sum(), size: size}
	h256.Sum(d.last.sha256[:0])
	h1.Sum(d.last.sha1[:0])
	return nil
}

func (d *digester) Message(m *remote.Meta) error {
	if m.UID != 0 && m.Body == remote.BodyRead && d.last != nil {
		d.got[m.UID] = *d.last
	}
	d.last = nil
	return nil
}

func (d *digester) Answered(_ imap.UIDSet, _ error) error { return nil }
