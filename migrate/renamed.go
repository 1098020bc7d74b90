package migrate

import (
	"context"
	"errors"
	"fmt"
	"maps"
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
	ids     *contentIDs                  // nil: nothing is known of messages by their ids
	noIDs   atomic.Bool                  // the source refused to tell them
	onHold  bool                         // the last delta: nothing that can wait
	chunk   int                          // messages in hand, where not adoptChunk
	strict  bool                         // all messages are to be asked for again, so they are on hold
	renamed int                          // mailboxes that were renamed with what they hold
	lostIDs atomic.Bool                  // their file failed, or asking for them did
	failed  int                          // times that asking for them failed, in a row
	anew    map[backend.MailboxName]int  // mailboxes that were dropped for others of their name
	shared  map[uint32]bool              // UIDVALIDITYs of several mailboxes without ids
	twins   map[backend.MailboxName]bool // mailboxes that no counter tells from others

	shelf   sync.Mutex                     // guards what follows while mailboxes are brought over side by side
	filed   map[backend.MailboxName]*filed // without fetching, of mailboxes that are not sealed since
	adopted uint64                         // messages that were filed without fetching
	trusted uint64                         // those of them that stand on the store's ids
	suspect map[backend.MailboxName]bool   // names that have another mailbox now
}

// filed are messages of one mailbox that were filed without fetching.
type filed struct {
	uids    imap.UIDSet
	trusted imap.UIDSet // those that no digest confirms one by one
}

// placeAndSync brings all mailboxes up to date, a second time those that turned
// out to be others than their names and UIDVALIDITYs say.
func (a *account) placeAndSync(ctx context.Context, pl *plan, res *pass) error {
	for again := false; ; again = true {
		if err := a.place(ctx, pl, res); err != nil {
			return err
		}
		if len(a.twins) > 0 {
			if err := a.tellTwins(ctx, pl); err != nil {
				return err
			}
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
	a.likenesses(have)
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
		if err := a.renameAll(ctx, imp, moves, to); err != nil {
			return err
		}
		res.Changed += len(moves)
		res.Renamed += len(moves)
		a.restore(pl)
	}
	return a.settleSuspects(ctx, pl, moves)
}

// renameAll renames at the target, between two notes in the file of ids: a crash
// leaves it unsure of names, not wrong.
func (a *account) renameAll(ctx context.Context, imp backend.RenamingImport, moves []backend.ImportRename, to map[backend.MailboxName]planned) error {
	keys := make(map[idName]idMove, len(moves))
	for _, m := range moves {
		object := a.objectOf(m.From, m.UIDValidity)
		if b := a.boxes[m.From]; b != nil && b.object != (idHash{}) {
			object = b.object
		}
		keys[nameOf(m.From, m.UIDValidity)] = idMove{nameOf(m.To, m.UIDValidity), object}
	}
	if a.ids != nil {
		if err := a.ids.renaming(keys); err != nil {
			_ = a.withoutIDs(err) // it is nil
		}
	}
	if err := a.makeRoom(ctx, moves); err != nil {
		return err
	}
	if err := imp.Rename(ctx, moves); err != nil {
		return fmt.Errorf("rename: %w", err)
	}
	a.rename(moves, to)
	if a.ids != nil {
		if err := a.ids.rename(keys); err != nil {
			_ = a.withoutIDs(err) // it is nil
		}
	}
	return nil
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
		if l.differs(&l.entries[i], m, exact) {
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
	delete(a.filed, name)
	return nil
}

// rename is what Rename means to what we know of the target.
func (a *account) rename(moves []backend.ImportRename, to map[backend.MailboxName]planned) {
	boxes, imported := make(map[backend.MailboxName]*box), make(map[backend.MailboxName]backend.ImportedMailbox)
	unsealed := make(map[backend.MailboxName]*filed)
	for _, m := range moves {
		if b := a.boxes[m.From]; b != nil {
			special := b.special
			b.planned, b.imp, b.compared = to[m.From], nil, false
			b.special = special // Open tells the target another one
			for k, e := range b.notes {
				e.Mailbox = b.shown
				b.notes[k] = e
			}
			boxes[m.To] = b
		}
		if i, ok := a.imported[m.From]; ok {
			i.Name = m.To
			imported[m.To] = i
		}
		if f := a.filed[m.From]; f != nil {
			unsealed[m.To] = f
		}
		a.renamed++
		a.log.Info("renamed at the old store", "from", strings.ReplaceAll(string(m.From), backend.NameSeparator, "/"), "to", to[m.From].shown)
	}
	for _, m := range moves {
		delete(a.boxes, m.From)
		delete(a.imported, m.From)
		delete(a.suspect, m.From)
		delete(a.filed, m.From)
	}
	maps.Copy(a.boxes, boxes)
	maps.Copy(a.imported, imported)
	if len(unsealed) > 0 { // else a.filed may be nil
		maps.Copy(a.filed, unsealed)
	}
}
