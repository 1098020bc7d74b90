package store_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/store"
)

// model is what the store should be: plain maps, one user.
type model struct {
	boxes map[backend.MailboxName]*modelBox
	ever  map[string]string // name/uidvalidity/uid -> text: identity never changes
}

type modelBox struct {
	validity uint32
	next     imap.UID
	modseq   uint64
	noSelect bool
	messages map[imap.UID]*modelMessage
	vanished map[imap.UID]uint64
}

type modelMessage struct {
	text   string
	flags  map[string]bool // folded
	modseq uint64
}

func (b *modelBox) uids() []imap.UID {
	var uids []imap.UID
	for uid := range b.messages {
		uids = append(uids, uid)
	}
	slices.Sort(uids)
	return uids
}

func (b *modelBox) file(text string, flags map[string]bool, modseq uint64) imap.UID {
	uid := b.next
	b.next++
	b.modseq = modseq
	b.messages[uid] = &modelMessage{text: text, flags: flags, modseq: modseq}
	return uid
}

func (b *modelBox) expunge(uid imap.UID, modseq uint64) {
	delete(b.messages, uid)
	b.vanished[uid] = modseq
	b.modseq = modseq
}

// walker does random operations to the store and to the model alike.
type walker struct {
	fixture
	rnd   *rand.Rand
	model model
	count int
}

func newWalker(t testing.TB, f fixture, seed uint64) *walker {
	w := &walker{fixture: f, rnd: rand.New(rand.NewPCG(seed, 1)), model: model{make(map[backend.MailboxName]*modelBox), make(map[string]string)}}
	list, err := f.Mailboxes(f.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, mb := range list {
		w.adopt(mb)
	}
	return w
}

func (w *walker) adopt(mb store.Mailbox) *modelBox {
	b := &modelBox{validity: mb.UIDValidity, next: mb.UIDNext, modseq: mb.HighestModSeq, noSelect: mb.NoSelect,
		messages: make(map[imap.UID]*modelMessage), vanished: make(map[imap.UID]uint64)}
	w.model.boxes[mb.Name] = b
	return b
}

var modelNames = []backend.MailboxName{backend.Inbox, "Sent", "a", backend.JoinName("a", "b"), backend.JoinName("a", "b", "c"), "d"}

var modelFlags = []imap.Flag{imap.FlagSeen, imap.FlagDeleted, imap.FlagFlagged, "Work", "WORK", "$Later", imap.FlagAnswered}

func (w *walker) name() backend.MailboxName { return modelNames[w.rnd.IntN(len(modelNames))] }

func (w *walker) flags() []imap.Flag {
	var out []imap.Flag
	for range w.rnd.IntN(4) {
		out = append(out, modelFlags[w.rnd.IntN(len(modelFlags))])
	}
	return out
}

func folded(flags []imap.Flag) map[string]bool {
	out := make(map[string]bool)
	for _, f := range flags {
		out[strings.ToLower(string(f))] = true
	}
	return out
}

// set picks a range of UIDs, now and then with a hole or above the last.
func (w *walker) set(b *modelBox) imap.UIDSet {
	var set imap.UIDSet
	for range 1 + w.rnd.IntN(2) {
		start := imap.UID(1 + w.rnd.IntN(int(b.next)+1))
		set = append(set, imap.UIDRange{Start: start, Stop: start + imap.UID(w.rnd.IntN(6))})
	}
	return set
}

// contains is imap.UIDSet.Contains for sets that are not sorted.
func contains(set imap.UIDSet, uid imap.UID) bool {
	return slices.ContainsFunc(set, func(r imap.UIDRange) bool { return r.Start <= uid && uid <= r.Stop })
}

func (w *walker) step() {
	name := w.name()
	b := w.model.boxes[name]
	if b == nil || b.noSelect {
		w.create(name)
		return
	}
	switch n := w.rnd.IntN(20); {
	case n < 7:
		w.doAppend(name, b)
	case n < 12:
		w.doStore(name, b)
	case n < 15:
		w.doExpunge(name, b)
	case n < 18:
		w.doCopy(name, b, w.name(), w.rnd.IntN(2) == 0)
	case n < 19:
		w.doDelete(name, b)
	default:
		w.doRename(name, w.name())
	}
}

func (w *walker) create(name backend.MailboxName) {
	if _, err := w.Create(w.ctx, name, nil); err != nil {
		w.t.Fatalf("create %q: %v", name, err)
	}
	for p, ok := name, true; ok; p, ok = p.Parent() {
		if b := w.model.boxes[p]; b == nil || b.noSelect && p == name {
			w.adopt(w.mailbox(p))
		}
	}
}

func (w *walker) doAppend(name backend.MailboxName, b *modelBox) {
	w.count++
	text, flags := fmt.Sprint("message ", w.count), w.flags()
	got := w.append(name, text, flags...)
	if uid := b.file(text, folded(flags), b.modseq+1); uid != got.UID || b.modseq != got.ModSeq {
		w.t.Fatalf("appended as %+v, want %d at %d", got, uid, b.modseq)
	}
}

func (w *walker) doStore(name backend.MailboxName, b *modelBox) {
	set, op, flags := w.set(b), store.FlagOp(w.rnd.IntN(3)), w.flags()
	since := uint64(0)
	if w.rnd.IntN(3) == 0 {
		since = max(1, b.modseq-uint64(w.rnd.IntN(5)))
	}
	changed, failed, err := w.StoreFlags(w.ctx, w.mailbox(name).ID, set, op, flags, since)
	if err != nil {
		w.t.Fatal(err)
	}
	var want []imap.UID
	var refused imap.UIDSet
	for _, uid := range b.uids() {
		m := b.messages[uid]
		if !contains(set, uid) {
			continue
		}
		if since != 0 && m.modseq > since {
			refused.AddNum(uid)
			continue
		}
		after := applied(m.flags, op, folded(flags))
		if fmt.Sprint(after) != fmt.Sprint(m.flags) {
			want = append(want, uid)
			m.flags, m.modseq = after, b.modseq+1
		}
	}
	if len(want) > 0 {
		b.modseq++
	}
	var got []imap.UID
	for _, m := range changed {
		got = append(got, m.UID)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) || refused.String() != failed.String() {
		w.t.Fatalf("store %v of %v since %d in %q: changed %v and refused %v, want %v and %v", op, set, since, name, got, failed, want, refused)
	}
}

func applied(old map[string]bool, op store.FlagOp, flags map[string]bool) map[string]bool {
	after := make(map[string]bool)
	if op != store.FlagsReplace {
		for f := range old {
			if op != store.FlagsRemove || !flags[f] {
				after[f] = true
			}
		}
	}
	if op != store.FlagsRemove {
		for f := range flags {
			after[f] = true
		}
	}
	return after
}

func (w *walker) doExpunge(name backend.MailboxName, b *modelBox) {
	var set imap.UIDSet
	if w.rnd.IntN(2) == 0 {
		set = w.set(b)
	}
	gone, modseq, err := w.Expunge(w.ctx, w.mailbox(name).ID, set)
	if err != nil {
		w.t.Fatal(err)
	}
	var want imap.UIDSet
	at := b.modseq + 1
	for _, uid := range b.uids() {
		if b.messages[uid].flags[`\deleted`] && (set == nil || contains(set, uid)) {
			want.AddNum(uid)
			b.expunge(uid, at)
		}
	}
	if gone.String() != want.String() || modseq != b.modseq {
		w.t.Fatalf("expunged %v at %d, want %v at %d", gone, modseq, want, b.modseq)
	}
}

func (w *walker) doCopy(name backend.MailboxName, b *modelBox, to backend.MailboxName, move bool) {
	target, set, id := w.model.boxes[to], w.set(b), w.mailbox(name).ID
	do := w.Copy
	if move {
		do = w.Move
	}
	res, err := do(w.ctx, id, set, to)
	if target == nil || target.noSelect {
		wantKind(w.t, err, backend.KindNotFound)
		return
	}
	if err != nil {
		w.t.Fatal(err)
	}
	var from, dest imap.UIDSet
	at, targetAt := b.modseq+1, target.modseq+1
	for _, uid := range b.uids() {
		if !contains(set, uid) {
			continue
		}
		m := b.messages[uid]
		from.AddNum(uid)
		dest.AddNum(target.file(m.text, applied(m.flags, store.FlagsReplace, m.flags), targetAt))
		if move {
			b.expunge(uid, at)
		}
	}
	if res.Source.String() != from.String() || res.Dest.String() != dest.String() || res.UIDValidity != target.validity {
		w.t.Fatalf("copied %+v, want %v %v", res, from, dest)
	}
}

func (w *walker) children(name backend.MailboxName) bool {
	for n := range w.model.boxes {
		if n.Below(name) {
			return true
		}
	}
	return false
}

func (w *walker) doDelete(name backend.MailboxName, b *modelBox) {
	err := w.Delete(w.ctx, name)
	if name == backend.Inbox {
		wantKind(w.t, err, backend.KindPermission)
		return
	}
	if err != nil {
		w.t.Fatal(err)
	}
	delete(w.model.boxes, name)
	if w.children(name) {
		w.adopt(w.mailbox(name))
	}
}

func (w *walker) doRename(from, to backend.MailboxName) {
	if from == backend.Inbox {
		return
	}
	err := w.Rename(w.ctx, from, to)
	if w.model.boxes[to] != nil {
		if err == nil {
			w.t.Fatalf("renamed %q over %q", from, to)
		}
		return
	}
	if to.Below(from) {
		wantKind(w.t, err, backend.KindInvalid)
		return
	}
	if err != nil {
		w.t.Fatalf("rename %q to %q: %v", from, to, err)
	}
	moved := make(map[backend.MailboxName]*modelBox)
	for n, b := range w.model.boxes {
		if n == from || n.Below(from) {
			moved[to+n[len(from):]] = b
			delete(w.model.boxes, n)
		}
	}
	for n, b := range moved {
		b.validity = w.mailbox(n).UIDValidity // may be new; identity is checked by compare
		w.model.boxes[n] = b
	}
	for p, ok := to.Parent(); ok; p, ok = p.Parent() {
		if w.model.boxes[p] == nil {
			w.adopt(w.mailbox(p))
		}
	}
}

// compare reads everything and compares it with the model.
func (w *walker) compare() {
	w.t.Helper()
	list, err := w.Mailboxes(w.ctx)
	if err != nil || len(list) != len(w.model.boxes) {
		w.t.Fatalf("%d mailboxes, want %d: %v", len(list), len(w.model.boxes), err)
	}
	for _, mb := range list {
		b := w.model.boxes[mb.Name]
		if b == nil || b.validity != mb.UIDValidity || b.next != mb.UIDNext || b.modseq != mb.HighestModSeq ||
			b.noSelect != mb.NoSelect || len(b.messages) != int(mb.Messages) || w.children(mb.Name) != mb.HasChildren {
			w.t.Fatalf("mailbox %q is %+v, want %+v", mb.Name, mb, b)
		}
		if !b.noSelect {
			w.compareBox(mb, b)
		}
	}
}

func (w *walker) compareBox(mb store.Mailbox, b *modelBox) {
	w.t.Helper()
	snap, err := w.Snapshot(w.ctx, mb.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	defer snap.Close()
	var seen []imap.UID
	for m, err := range snap.Messages(imap.UIDSet{{Start: 1, Stop: 1<<32 - 1}}) {
		if err != nil {
			w.t.Fatal(err)
		}
		want := b.messages[m.UID]
		if want == nil || want.modseq != m.ModSeq || fmt.Sprint(folded(m.Flags)) != fmt.Sprint(want.flags) || w.read(m) != want.text {
			w.t.Fatalf("message %d of %q is %+v, want %+v", m.UID, mb.Name, m, want)
		}
		key := fmt.Sprint(mb.Name, "/", mb.UIDValidity, "/", m.UID)
		if old, ok := w.model.ever[key]; ok && old != want.text {
			w.t.Fatalf("%q was %q and is %q", key, old, want.text)
		}
		w.model.ever[key] = want.text
		seen = append(seen, m.UID)
	}
	if uids, err := snap.UIDs(); err != nil || !slices.Equal(uids, seen) || !slices.Equal(uids, b.uids()) {
		w.t.Fatalf("UIDs of %q: %v, walked %v, want %v: %v", mb.Name, uids, seen, b.uids(), err)
	}
	w.compareChanges(snap, b)
}

func (w *walker) compareChanges(snap *store.Snapshot, b *modelBox) {
	w.t.Helper()
	since := uint64(w.rnd.Int64N(int64(b.modseq) + 1))
	want := make(map[imap.UID]string)
	var gone imap.UIDSet
	for uid, m := range b.messages {
		if m.modseq > since {
			want[uid] = fmt.Sprint(m.modseq, false)
		}
	}
	for uid, modseq := range b.vanished {
		if modseq > since {
			want[uid] = fmt.Sprint(modseq, true)
			gone.AddNum(uid)
		}
	}
	got, last := make(map[imap.UID]string), uint64(0)
	for c, err := range snap.Changes(since) {
		if err != nil || c.ModSeq < last {
			w.t.Fatalf("change %+v after modseq %d: %v", c, last, err)
		}
		got[c.UID], last = fmt.Sprint(c.ModSeq, c.Vanished), c.ModSeq
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		w.t.Fatalf("changes since %d are %v, want %v", since, got, want)
	}
	if set, err := snap.VanishedSince(since, nil); err != nil || set.String() != gone.String() {
		w.t.Fatalf("vanished since %d is %v, want %v: %v", since, set, gone, err)
	}
}

// modelSeed is printed, and set with MAILFERRY_SEED to repeat a walk.
func modelSeed(t testing.TB) uint64 {
	seed := uint64(time.Now().UnixNano())
	if v := os.Getenv("MAILFERRY_SEED"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	t.Logf("MAILFERRY_SEED=%d", seed)
	return seed
}

func TestRandomWalk(t *testing.T) {
	seed := modelSeed(t)
	steps := 1500
	if testing.Short() {
		steps = 300
	}
	eachEngine(t, func(t *testing.T, s *store.Store) {
		w := newWalker(t, newUser(t, s, "walker"), seed)
		for i := range steps {
			w.step()
			if i%50 == 0 {
				w.compare()
			}
		}
		w.compare()
	})
}
