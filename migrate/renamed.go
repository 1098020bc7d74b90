package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// heldBox is a mailbox that the target has.
type heldBox struct {
	backend.ImportMailbox
	next   uint32
	modseq uint64
	count  uint32
	object idHash // zero: not known
}

// placing is what an account knows of mailboxes and messages that have another
// place at the source than before.
type placing struct {
	ids     *contentIDs                         // nil: nothing is known of messages by their ids
	noIDs   atomic.Bool                         // the source refused to tell them
	onHold  bool                                // the last delta: nothing that can wait
	filed   map[backend.MailboxName]imap.UIDSet // in this pass, without fetching
	adopted uint64                              // messages that were filed without fetching
	renamed int                                 // mailboxes that were renamed with what they hold
	lostIDs atomic.Bool                         // their file failed

	suspecting sync.Mutex
	suspect    map[backend.MailboxName]bool // names that have another mailbox now; guarded by suspecting while mailboxes are brought over
}

// placeAndSync brings all mailboxes up to date, a second time those that turned
// out to be others than their names and UIDVALIDITYs say.
func (a *account) placeAndSync(ctx context.Context, pl *plan, res *pass) error {
	for again := false; ; again = true {
		if err := a.place(ctx, pl, res); err != nil {
			return err
		}
		if a.syncBoxes(ctx, inboxFirst(pl.boxes), res); ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if len(a.suspect) == 0 || again || a.client == nil {
			return nil
		}
		res.Errors = slices.DeleteFunc(res.Errors, func(err error) bool { return errors.Is(err, errAnother) })
	}
}

// place takes over what was renamed and moved, before anything is removed.
func (a *account) place(ctx context.Context, pl *plan, res *pass) error {
	if err := a.renames(ctx, pl, res); err != nil {
		return err
	}
	return a.adopt(ctx, pl, res)
}

var errAnother = errors.New("another mailbox has this name now")

// errReplaced: the next pass has to see what became of the one that had the name.
func errReplaced(box string) error {
	return backend.Errorf(backend.KindTemporary, "The old store has another mailbox of this name now.", "mailbox %q: %w", box, errAnother)
}

// replaced reports whether another mailbox was opened than b, although name and
// UIDVALIDITY are the same: stores make UIDVALIDITYs of the time, and two
// mailboxes that swap their names may share one. The next pass looks at it.
func (a *account) replaced(b *box, sel *remote.Selected) bool {
	object := hashID([]byte(sel.MailboxID))
	if _, ok := a.imp.(backend.RenamingImport); !ok || (object == idHash{}) {
		return false
	}
	if b.validity == sel.UIDValidity && (b.object == idHash{}) {
		b.object = a.objectOf(b.name, b.validity)
	}
	if b.validity == sel.UIDValidity && (b.object != idHash{}) && b.object != object {
		a.suspected(b)
		return true
	}
	b.object = object
	return false
}

func (a *account) suspected(b *box) {
	a.suspecting.Lock() // mailboxes are brought over side by side
	defer a.suspecting.Unlock()
	if a.suspect == nil {
		a.suspect = make(map[backend.MailboxName]bool)
	}
	a.suspect[b.name] = true
}

// stranger reports whether a listing is of another mailbox than the target has
// under its name, where no id tells: sizes and dates of common UIDs differ.
func (a *account) stranger(b *box, d *difference) bool {
	if _, ok := a.imp.(backend.RenamingImport); !ok || d.strange == 0 || d.strange*10 <= d.had-d.removed {
		return false
	}
	a.suspected(b)
	return true
}

// held lists the mailboxes with messages that the target has.
func (a *account) held() map[backend.MailboxName]heldBox {
	out := make(map[backend.MailboxName]heldBox, len(a.boxes))
	for name, m := range a.imported {
		if !m.NoSelect {
			out[name] = heldBox{ImportMailbox: m.ImportMailbox, next: m.UIDNext, modseq: m.SealedModSeq, count: m.Messages, object: a.objectOf(name, m.UIDValidity)}
		}
	}
	for name, b := range a.boxes {
		if delete(out, name); !b.hollow && b.validity != 0 {
			h := heldBox{next: b.next, modseq: b.modseq, count: b.count, object: b.object}
			h.ImportMailbox = backend.ImportMailbox{Name: name, UIDValidity: b.validity, SpecialUse: b.special}
			if (h.object == idHash{}) {
				h.object = a.objectOf(name, b.validity)
			}
			out[name] = h
		}
	}
	return out
}

func (a *account) objectOf(name backend.MailboxName, validity uint32) (object idHash) {
	if a.ids != nil {
		var err error
		if object, err = a.ids.object(nameOf(name, validity)); err != nil {
			a.log.Info("ids of messages cannot be read", "error", err)
		}
	}
	return object
}

// renames finds mailboxes that have another name now, by their OBJECTID or their
// UIDVALIDITY, and renames them at the target with all they hold. A mailbox is
// taken for another's only when a listing shows the messages that the target
// has: by UID, size and date. Those that cannot be told for sure are copied
// anew.
func (a *account) renames(ctx context.Context, pl *plan, res *pass) error {
	imp, ok := a.imp.(backend.RenamingImport)
	if !ok {
		return nil
	}
	have := a.held()
	appeared, gone := a.unplaced(pl, have)
	if len(appeared) == 0 || len(gone) == 0 {
		return a.settleSuspects(ctx, pl, nil)
	}
	var moves []backend.ImportRename
	to := make(map[backend.MailboxName]planned)
	for i := 0; i < len(appeared); i++ {
		p := appeared[i]
		h, ok, err := a.former(ctx, p, have, gone)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if _, ok := gone[h.Name]; !ok { // another one has its name already
			appeared = append(appeared, pl.named(h.Name)...)
		}
		delete(gone, h.Name)
		delete(have, h.Name)
		if h.Name == p.name { // it was there all along
			delete(a.suspect, p.name)
			continue
		}
		moves = append(moves, backend.ImportRename{From: h.Name, To: p.name, UIDValidity: h.UIDValidity})
		to[h.Name] = p
	}
	if len(moves) > 0 {
		if err := a.makeRoom(ctx, moves); err != nil {
			return err
		}
		if err := imp.Rename(ctx, moves); err != nil {
			return fmt.Errorf("rename: %w", err)
		}
		a.rename(moves, to)
		res.Changed += len(moves)
		res.Renamed += len(moves)
		a.restore(pl)
	}
	return a.settleSuspects(ctx, pl, moves)
}

// unplaced are the source's mailboxes that the target has not under their name,
// and the target's that the source has not.
func (a *account) unplaced(pl *plan, have map[backend.MailboxName]heldBox) (appeared []planned, gone map[backend.MailboxName]heldBox) {
	gone = make(map[backend.MailboxName]heldBox)
	for name, h := range have {
		if h.count > 0 {
			gone[name] = h
		}
	}
	for _, p := range pl.boxes {
		h, ok := have[p.name]
		v := p.status.UIDValidity
		switch {
		case p.hollow:
		case ok && !a.suspect[p.name] && (!p.known || v == h.UIDValidity):
			delete(gone, p.name)
		case p.known && v != 0 && p.status.Messages > 0:
			appeared = append(appeared, p)
		}
	}
	return appeared, gone
}

// named is the mailbox of a name.
func (pl *plan) named(name backend.MailboxName) []planned {
	i := slices.IndexFunc(pl.boxes, func(p planned) bool { return p.name == name })
	if i < 0 {
		return nil
	}
	return pl.boxes[i : i+1]
}

// former finds the mailbox that p was: one of those that are gone, or that an
// OBJECTID shows to have left its name to another.
func (a *account) former(ctx context.Context, p planned, have, gone map[backend.MailboxName]heldBox) (h heldBox, ok bool, err error) {
	var may []heldBox
	for _, g := range have {
		s := p.status
		if _, left := gone[g.Name]; !left && (g.object == idHash{}) {
			continue
		}
		if g.count > 0 && g.UIDValidity == s.UIDValidity && (s.UIDNext == 0 || g.next <= s.UIDNext) &&
			(s.HighestModSeq == 0 || g.modseq <= s.HighestModSeq) {
			may = append(may, g)
		}
	}
	if len(may) == 0 {
		return heldBox{}, false, nil
	}
	l, sel, err := a.listAlone(ctx, p)
	if err != nil || l == nil || sel.UIDValidity != p.status.UIDValidity {
		return heldBox{}, false, err
	}
	object := hashID([]byte(sel.MailboxID))
	known := func(g heldBox) bool { return g.object != idHash{} && object != idHash{} }
	may = slices.DeleteFunc(may, func(g heldBox) bool {
		_, left := gone[g.Name]
		return known(g) && g.object != object || !known(g) && !left
	})
	var found []heldBox
	for _, g := range may {
		same, err := a.resembles(ctx, l, g, known(g))
		if err != nil {
			return heldBox{}, false, err
		}
		if same {
			found = append(found, g)
		}
	}
	if len(found) != 1 {
		if len(found) > 1 {
			a.log.Info("a mailbox may be one of several that were renamed: copied anew", "mailbox", p.shown)
		}
		return heldBox{}, false, nil
	}
	return found[0], true, nil
}

// listAlone lists one mailbox; nil when the store does not give it.
func (a *account) listAlone(ctx context.Context, p planned) (*listing, *remote.Selected, error) {
	c, err := a.connected(ctx)
	if err != nil {
		return nil, nil, err
	}
	sel, err := c.Examine(ctx, p.raw, remote.SelectOptions{})
	var l *listing
	if err == nil {
		l, err = list(ctx, c, sel, &a.flags, remote.FetchAll)
	}
	if err == nil {
		return l, sel, nil
	}
	if ctx.Err() != nil || brokenBy(err) {
		a.drop()
		return nil, nil, err
	}
	a.log.Info("a mailbox cannot be compared with those that are gone", "mailbox", p.shown, "error", err)
	return nil, nil, nil
}

// resembles compares a listing with what the target has of h. Flags may have
// changed and messages may be gone, fewer of them where no id says that it is
// the same mailbox; what both have must be equal in size and date.
func (a *account) resembles(ctx context.Context, l *listing, h heldBox, named bool) (bool, error) {
	imp, err := a.imp.Open(ctx, h.ImportMailbox)
	if err != nil {
		return false, fmt.Errorf("open: %w", err)
	}
	exact := a.client != nil && a.client.Profile().ExactSizes
	had, both := 0, 0
	for m, err := range imp.Messages(ctx) {
		if err != nil {
			return false, fmt.Errorf("list the target: %w", err)
		}
		had++
		i := l.index(m.UID)
		if i < 0 {
			continue
		}
		e := &l.entries[i]
		if exact && int64(e.size) != m.Size || e.date != noDate && l.at(e) != m.InternalDate.Unix() {
			return false, nil
		}
		both++
	}
	return both > 0 && (named || both*2 >= had), nil
}

// makeRoom removes what has a new name and is not renamed itself: the source
// has it no more.
func (a *account) makeRoom(ctx context.Context, moves []backend.ImportRename) error {
	leaves := make(map[backend.MailboxName]bool, len(moves))
	for _, m := range moves {
		leaves[m.From] = true
	}
	have, err := a.imp.Mailboxes(ctx)
	if err != nil {
		return err
	}
	there := make(map[backend.MailboxName]bool, len(have))
	for _, m := range have {
		there[m.Name] = true
	}
	for _, m := range moves {
		if !leaves[m.To] && there[m.To] {
			if err := a.forsake(ctx, m.To); err != nil {
				return err
			}
		}
	}
	return nil
}

// forsake drops a mailbox of the target; what the source has of the name is
// copied.
func (a *account) forsake(ctx context.Context, name backend.MailboxName) error {
	if err := a.imp.Remove(ctx, name); err != nil && !backend.IsKind(err, backend.KindNotFound) {
		return fmt.Errorf("remove %q: %w", name, err)
	}
	delete(a.boxes, name)
	delete(a.imported, name)
	return nil
}

// rename is what Rename means to what we know of the target.
func (a *account) rename(moves []backend.ImportRename, to map[backend.MailboxName]planned) {
	boxes, imported := make(map[backend.MailboxName]*box), make(map[backend.MailboxName]backend.ImportedMailbox)
	keys := make(map[idName]idName, len(moves))
	for _, m := range moves {
		if b := a.boxes[m.From]; b != nil {
			special := b.special
			b.planned, b.imp, b.compared = to[m.From], nil, false
			b.special = special // Open tells the target another one
			boxes[m.To] = b
		}
		if i, ok := a.imported[m.From]; ok {
			i.Name = m.To
			imported[m.To] = i
		}
		keys[nameOf(m.From, m.UIDValidity)] = nameOf(m.To, m.UIDValidity)
		a.renamed++
		a.log.Info("renamed at the old store", "from", strings.ReplaceAll(string(m.From), backend.NameSeparator, "/"), "to", to[m.From].shown)
	}
	for _, m := range moves {
		delete(a.boxes, m.From)
		delete(a.imported, m.From)
		delete(a.suspect, m.From)
	}
	for name, b := range boxes {
		a.boxes[name] = b
	}
	for name, i := range imported {
		a.imported[name] = i
	}
	if a.ids != nil {
		if err := a.ids.rename(keys); err != nil {
			a.log.Info("ids of messages cannot be kept", "error", err)
		}
	}
}

// settleSuspects drops what the target has under names that other mailboxes
// have now.
func (a *account) settleSuspects(ctx context.Context, pl *plan, moves []backend.ImportRename) error {
	for name := range a.suspect {
		if slices.ContainsFunc(moves, func(m backend.ImportRename) bool { return m.To == name }) {
			continue
		}
		a.log.Info("another mailbox has the name of one that was copied: copied anew", "mailbox", string(name))
		if err := a.forsake(ctx, name); err != nil {
			return err
		}
	}
	a.suspect = nil
	return nil
}

// unfiled is what is to be fetched of a delta: not what was filed without that.
// What was filed gets the flags of the listing.
func (a *account) unfiled(ctx context.Context, b *box, fresh *listing) (*listing, error) {
	filed := a.filed[b.name]
	if len(filed) == 0 {
		return fresh, nil
	}
	todo := &listing{shared: fresh.shared, mapper: fresh.mapper}
	var flags []backend.ImportFlags
	for i := range fresh.entries {
		e := &fresh.entries[i]
		if filed.Contains(e.uid) {
			flags = append(flags, backend.ImportFlags{UID: e.uid, ModSeq: e.modseq, Flags: fresh.flags(e)})
		} else {
			todo.entries = append(todo.entries, *e)
		}
	}
	for part := range slices.Chunk(flags, 1000) {
		if err := b.imp.SetFlags(ctx, part); err != nil {
			return nil, fmt.Errorf("set flags: %w", err)
		}
	}
	todo.finish()
	return todo, nil
}
