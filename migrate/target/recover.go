package target

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// resolve finds out what became of the messages that were sent and not
// answered: all UIDs of the target from the lowest UIDNEXT that was recorded
// before them are looked at, and those that no map knows are compared by their
// content. Those that are there get the flags that they were sent with: a store
// that died may have kept the message and not its keywords. Callers hold i.mu,
// and nothing is on the way.
func (b *mailbox) resolve(ctx context.Context) error {
	var doubts []record
	if err := b.m.each(func(r record) bool {
		if r.state == stateDoubt {
			doubts = append(doubts, r)
		}
		return true
	}); err != nil || len(doubts) == 0 {
		return err
	}
	if err := b.settleTime(ctx); err != nil {
		return err
	}
	base := uint32(1<<32 - 1)
	for _, r := range doubts {
		base = min(base, r.dst)
	}
	found := 0
	err := b.selected(ctx, func(c *remote.Client) error {
		unknown, err := b.unknown(ctx, c, base)
		if err != nil {
			return err
		}
		read, err := contents(ctx, c, uidsOf(unknown))
		if err != nil {
			return err
		}
		at := match(doubts, unknown, read)
		if err := b.giveFlags(ctx, c, doubts, unknown, at); err != nil {
			return err
		}
		for k, u := range at {
			doubts[k].state = stateStored
			if err := b.m.settle(imap.UID(doubts[k].src), stateStored, unknown[u].uid); err != nil {
				return &decided{err}
			}
			found++
		}
		b.seen(b.sel.Exists, b.sel.UIDNext)
		return nil
	})
	if err != nil {
		return err
	}
	b.i.o.Log.Info("looked for messages in doubt", "mailbox", b.raw, "doubts", len(doubts), "found", found)
	for _, r := range doubts {
		if r.state != stateDoubt {
			continue
		}
		if b.resent == nil {
			b.resent, b.base = make(map[[8]byte]int), base
		}
		b.base = min(b.base, base)
		b.resent[r.digest.id()]++
		if b.i.late != nil {
			id := r.digest.id()
			if err := b.i.late.write(lateEntry{Resent: hex.EncodeToString(id[:])}); err != nil {
				return err
			}
		}
		if err := b.m.settle(imap.UID(r.src), stateGone, 0); err != nil {
			return err
		}
	}
	return nil
}

func uidsOf(list []stray) []imap.UID {
	uids := make([]imap.UID, len(list))
	for k, s := range list {
		uids[k] = s.uid
	}
	return uids
}

// match tells for doubts which of unknown each is, by what was read of them.
// Equal ones were sent in the order of UIDs, and filed in it.
func match(doubts []record, unknown []stray, read map[imap.UID]content) map[int]int {
	open := make(map[[8]byte][]int)
	for k, r := range doubts {
		if r.state == stateDoubt {
			open[r.digest.id()] = append(open[r.digest.id()], k)
		}
	}
	at := make(map[int]int)
	for n, s := range unknown {
		got, ok := read[s.uid]
		if !ok {
			continue
		}
		if list := open[got.digest.id()]; len(list) > 0 {
			at[list[0]], open[got.digest.id()] = n, list[1:]
		}
	}
	return at
}

// giveFlags adds the flags that messages were sent with and do not have, and takes
// away those that the target made up. Flags beyond those are their owner's, who may
// have seen them by now. Callers hold i.mu.
func (b *mailbox) giveFlags(ctx context.Context, c *remote.Client, doubts []record, unknown []stray, at map[int]int) error {
	stores := make(map[string]*remote.FlagStore)
	change := func(uid imap.UID, how remote.FlagChange, flags []imap.Flag) {
		if len(flags) == 0 {
			return
		}
		key := fmt.Sprint(how, flags)
		if stores[key] == nil {
			stores[key] = &remote.FlagStore{Change: how, Flags: flags}
		}
		stores[key].UIDs.AddNum(uid)
	}
	for k, n := range at {
		sent, has := b.allowed(imap.UID(doubts[k].src), b.m.flagsOf(doubts[k].flags)), unknown[n].flags
		change(unknown[n].uid, remote.AddFlags, without(sent, has))
		if c.Profile().Type == backend.StoreDovecot {
			change(unknown[n].uid, remote.RemoveFlags, slices.DeleteFunc(without(has, sent), func(f imap.Flag) bool { return !madeUp(f) }))
		}
	}
	var cmds []remote.FlagStore
	for _, key := range slices.Sorted(maps.Keys(stores)) {
		for part := range chunks(stores[key].UIDs) {
			cmds = append(cmds, remote.FlagStore{UIDs: part, Change: stores[key].Change, Flags: stores[key].Flags})
		}
	}
	if len(cmds) == 0 {
		return nil
	}
	b.i.o.Log.Info("the target had lost flags of messages in doubt", "mailbox", b.raw, "commands", len(cmds))
	errs, err := c.StoreFlags(ctx, cmds)
	if err != nil {
		return err
	}
	for k, err := range errs {
		if err != nil {
			b.i.note(backend.ImportNote{Mailbox: b.name, What: fmt.Sprintf("the target refused the flags %v: %v", cmds[k].Flags, err)})
		}
	}
	return nil
}

// without are the flags that are not in other; case does not matter (RFC 9051,
// 2.3.2).
func without(flags, other []imap.Flag) (out []imap.Flag) {
	for _, f := range flags {
		if !slices.ContainsFunc(other, func(g imap.Flag) bool { return strings.EqualFold(string(f), string(g)) }) {
			out = append(out, f)
		}
	}
	return out
}

// madeUp reports a keyword of Dovecot's own. Its maildir writes messages, with a
// letter for each keyword in the file's name, before the names of the keywords: if
// it is killed between them, it calls the letter unknown-N from then on.
func madeUp(f imap.Flag) bool {
	n, ok := strings.CutPrefix(string(f), "unknown-")
	_, err := strconv.Atoi(n)
	return ok && err == nil
}

// settleTime lets the target finish what a broken connection had sent: an
// APPEND that it has read whole is filed even when nobody waits for it.
func (b *mailbox) settleTime(ctx context.Context) error {
	last := b.i.lost
	if st, err := os.Stat(b.m.path); err == nil && last.IsZero() {
		last = st.ModTime() // by the process before
	}
	wait := b.i.o.Settle - time.Since(last)
	if last.IsZero() || wait <= 0 || b.i.lost.IsZero() && b.checked {
		return nil
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// listed is a message as the target lists it.
type listed struct {
	uid  imap.UID
	size int64
	date int64

	// Of an exact target alone.
	internal time.Time
	flags    []imap.Flag
}

// stray is a message of the target that no map knows.
type stray struct {
	uid   imap.UID
	flags []imap.Flag
}

// unknown lists the messages from base on that no map knows, ascending; callers
// hold i.mu.
func (b *mailbox) unknown(ctx context.Context, c *remote.Client, base uint32) (out []stray, err error) {
	if b.sel.Exists == 0 {
		return nil, nil
	}
	_, err = c.FetchMeta(ctx, remote.FetchMeta{UIDs: fmt.Sprintf("%d:*", max(base, 1)), Items: remote.FetchAll}, func(m *remote.Meta) error {
		if uint32(m.UID) >= base {
			out = append(out, stray{m.UID, m.Flags})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	known := make(map[imap.UID]bool)
	for _, o := range b.i.mailboxes() {
		if o.raw != b.raw {
			continue
		}
		if err := o.m.each(func(r record) bool {
			if r.state == stateStored && r.dst >= base {
				known[imap.UID(r.dst)] = true
			}
			return true
		}); err != nil {
			return nil, &decided{err}
		}
	}
	out = slices.DeleteFunc(out, func(l stray) bool { return known[l.uid] })
	slices.SortFunc(out, func(x, y stray) int { return int(int64(x.uid) - int64(y.uid)) })
	return slices.CompactFunc(out, func(x, y stray) bool { return x.uid == y.uid }), nil
}

// reconcile compares the map with a listing of the target: messages that are
// gone from there will be copied again, those that the map does not know may
// turn out to be copies of another tool, or of a map that was lost. Callers hold
// i.mu.
func (b *mailbox) reconcile(ctx context.Context) error {
	b.adopt = nil
	return b.selected(ctx, func(c *remote.Client) error {
		there := make(map[imap.UID]bool, b.sel.Exists)
		var all []listed
		if b.sel.Exists > 0 {
			if _, err := c.FetchMeta(ctx, remote.FetchMeta{UIDs: "1:*", Items: remote.FetchAll}, func(m *remote.Meta) error {
				if !there[m.UID] {
					there[m.UID] = true
					l := listed{uid: m.UID, size: m.Size, date: m.Date.Unix()}
					if b.i.o.Exact != nil {
						l.internal, l.flags = m.Date, m.Flags
					}
					all = append(all, l)
				}
				return nil
			}); err != nil {
				return err
			}
		}
		if len(all) < int(b.sel.Exists) { // a listing with holes proves nothing
			return &decided{backend.Errorf(backend.KindTemporary, "The target's listing is not complete.",
				"mailbox %q: %d messages listed, %d exist", b.raw, len(all), b.sel.Exists)}
		}
		known := make(map[imap.UID]bool)
		for _, o := range b.i.mailboxes() {
			if o.raw != b.raw {
				continue
			}
			var lost []imap.UID
			if err := o.m.each(func(r record) bool {
				if r.state == stateStored {
					if known[imap.UID(r.dst)] = true; !there[imap.UID(r.dst)] && o == b {
						lost = append(lost, imap.UID(r.src))
					}
				}
				return true
			}); err != nil {
				return &decided{err}
			}
			for _, uid := range lost {
				if err := b.m.settle(uid, stateGone, 0); err != nil {
					return &decided{err}
				}
			}
			if len(lost) > 0 {
				b.i.note(backend.ImportNote{Mailbox: b.name, What: fmt.Sprintf("%d messages were gone from the target: copied again", len(lost))})
			}
		}
		b.seen(b.sel.Exists, b.sel.UIDNext)
		all = slices.DeleteFunc(all, func(l listed) bool { return known[l.uid] })
		switch {
		case b.i.o.Exact != nil:
			if err := b.recognize(all); err != nil {
				return &decided{err}
			}
		case len(all) > 0:
			b.adopt = newAdoption(all)
		}
		return nil
	})
}

// unknownFlags are those of a message that somebody else put there: different
// from any list, so that the source's are set.
var unknownFlags = []imap.Flag{"=unknown"}

// adoption are messages of the target that no map knows.
type adoption struct {
	list   []listed
	sums   map[imap.UID]digest
	bySize map[int64][]int
	byDate map[int64][]int
	used   map[imap.UID]bool
}

func newAdoption(list []listed) *adoption {
	a := &adoption{list: list, sums: make(map[imap.UID]digest), bySize: make(map[int64][]int), byDate: make(map[int64][]int),
		used: make(map[imap.UID]bool)}
	for k, l := range list {
		a.bySize[l.size] = append(a.bySize[l.size], k)
		a.byDate[l.date] = append(a.byDate[l.date], k)
	}
	return a
}

// alike are the messages that may be m: of its size, or of its date.
func (a *adoption) alike(m *backend.ImportMessage) (out []imap.UID) {
	for _, list := range [][]int{a.bySize[m.Body.Size()], a.byDate[m.InternalDate.Unix()]} {
		for _, k := range list {
			if l := &a.list[k]; !a.used[l.uid] {
				out = append(out, l.uid)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// claim takes messages of the target that are those of msgs already; callers
// hold i.mu.
func (b *mailbox) claim(ctx context.Context, msgs []backend.ImportMessage) error {
	var ask []imap.UID
	for k := range msgs {
		for _, uid := range b.adopt.alike(&msgs[k]) {
			if _, ok := b.adopt.sums[uid]; !ok {
				ask = append(ask, uid)
			}
		}
	}
	slices.Sort(ask)
	if ask = slices.Compact(ask); len(ask) > 0 {
		err := b.selected(ctx, func(c *remote.Client) error {
			read, err := contents(ctx, c, ask)
			for _, uid := range ask {
				b.adopt.sums[uid] = read[uid].digest // zero for one that went
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	var flags []backend.ImportFlags
	for k := range msgs {
		m := &msgs[k]
		body := m.Body.(*body)
		if _, known, err := b.m.get(m.UID); known || err != nil {
			continue
		}
		for _, uid := range b.adopt.alike(m) {
			if b.adopt.sums[uid].id() != body.sum.id() {
				continue
			}
			b.adopt.used[uid] = true
			rec := record{src: uint32(m.UID), dst: uint32(uid), size: uint32(min(body.size, 1<<32-1)), digest: body.sum}
			if err := b.m.intend([]record{rec}, [][]imap.Flag{unknownFlags}); err != nil {
				return err
			}
			if err := b.m.settle(m.UID, stateStored, uid); err != nil {
				return err
			}
			flags = append(flags, backend.ImportFlags{UID: m.UID, Flags: m.Flags})
			break
		}
	}
	if len(flags) == 0 {
		return nil
	}
	b.i.mu.Unlock()
	defer b.i.mu.Lock()
	return b.SetFlags(ctx, flags)
}

// deleteExtra removes what only the target has, where the rules ask for it;
// callers hold i.mu.
func (b *mailbox) deleteExtra(ctx context.Context) error {
	if b.adopt == nil || !b.i.o.Rules.Delete || b.i.shared(b) {
		return nil
	}
	var set imap.UIDSet
	n := 0
	for _, l := range b.adopt.list {
		if !b.adopt.used[l.uid] {
			set.AddNum(l.uid)
			n++
		}
	}
	b.adopt = nil
	exists, _ := b.counters()
	switch {
	case n == 0:
		return nil
	case tooMany(n, int(exists)) && !b.i.o.Rules.MassDelete:
		b.i.note(backend.ImportNote{Mailbox: b.name,
			What: fmt.Sprintf("%d of %d messages of the target would be deleted: none was (allow mass deletion to do so)", n, exists)})
		return nil
	}
	b.i.note(backend.ImportNote{Mailbox: b.name, What: fmt.Sprintf("%d messages that only the target had were deleted", n)})
	return b.expunge(ctx, set)
}

// lateDoubles removes what a broken connection's last command filed after we
// had looked for it and sent it again: messages of that very content that no
// map knows. Callers hold i.mu.
func (b *mailbox) lateDoubles(ctx context.Context) error {
	var set imap.UIDSet
	err := b.selected(ctx, func(c *remote.Client) error {
		set = nil
		unknown, err := b.unknown(ctx, c, b.base)
		if err != nil || len(unknown) == 0 {
			return err
		}
		uids := uidsOf(unknown)
		read, err := contents(ctx, c, uids)
		if err != nil {
			return err
		}
		for _, uid := range uids {
			if got, ok := read[uid]; ok && b.resent[got.digest.id()] > 0 {
				b.resent[got.digest.id()]--
				set.AddNum(uid)
			}
		}
		b.seen(b.sel.Exists, b.sel.UIDNext)
		return nil
	})
	if err != nil {
		return err
	}
	b.resent = nil
	if len(set) == 0 {
		return nil
	}
	b.i.o.Log.Warn("the target filed messages of a broken connection late: removed", "mailbox", b.raw, "uids", set.String())
	return b.expunge(ctx, set)
}
