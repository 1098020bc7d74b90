package migrate

import (
	"cmp"
	"slices"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
)

// ledger is what the source has of a mailbox, as of its last full listing and
// the deltas since: 8 octets a message, so that the digest of a mailbox that
// changed costs what changed and not a listing. What is told twice, or of
// messages that it does not know to be there, changes nothing: it may be newer
// than the point from which a delta counts.
type ledger struct {
	entries []ledgerEntry // ascending
	lists   [][]imap.Flag
	index   map[string]uint32 // of lists
	sum     [32]byte          // over entries
	broken  bool              // told a change of a message it never heard of
	key     []byte            // scratch
}

type ledgerEntry struct {
	uid   imap.UID
	flags uint32 // in lists
}

func newLedger(l *listing) *ledger {
	g := &ledger{entries: make([]ledgerEntry, len(l.entries)), index: make(map[string]uint32)}
	known := make([]uint32, len(l.lists))
	for i, flags := range l.lists {
		known[i] = g.list(flags)
	}
	for i := range l.entries {
		e := &l.entries[i]
		g.entries[i] = ledgerEntry{e.uid, known[e.list()]}
		backend.AddSum(&g.sum, backend.SumMessage(e.uid, l.flags(e)))
	}
	return g
}

func (g *ledger) list(flags []imap.Flag) uint32 {
	g.key = g.key[:0]
	for _, f := range flags {
		g.key = append(append(g.key, f...), ' ')
	}
	n, ok := g.index[string(g.key)]
	if !ok {
		n = uint32(len(g.lists))
		g.lists = append(g.lists, flags)
		g.index[string(g.key)] = n
	}
	return n
}

func (g *ledger) find(uid imap.UID) (int, bool) {
	return slices.BinarySearchFunc(g.entries, uid, func(e ledgerEntry, u imap.UID) int { return cmp.Compare(e.uid, u) })
}

func (g *ledger) take(e ledgerEntry) {
	backend.SubSum(&g.sum, backend.SumMessage(e.uid, g.lists[e.flags]))
}

// set files flags of a message. One that is not there is new when fresh says
// so; otherwise the ledger misses something and is broken.
func (g *ledger) set(uid imap.UID, flags []imap.Flag, fresh bool) {
	i, ok := g.find(uid)
	switch {
	case ok:
		g.take(g.entries[i])
		g.entries[i].flags = g.list(flags)
	case fresh:
		g.entries = slices.Insert(g.entries, i, ledgerEntry{uid, g.list(flags)})
	default:
		g.broken = true
		return
	}
	backend.AddSum(&g.sum, backend.SumMessage(uid, flags))
}

// remove takes out what of a set is there; sets may name UIDs that never were.
func (g *ledger) remove(set imap.UIDSet) {
	found := false
	for _, r := range set {
		i, _ := g.find(r.Start)
		for ; i < len(g.entries) && g.entries[i].uid <= r.Stop; i++ {
			if e := &g.entries[i]; e.flags != removedEntry {
				g.take(*e)
				e.flags, found = removedEntry, true
			}
		}
	}
	if found {
		g.entries = slices.DeleteFunc(g.entries, func(e ledgerEntry) bool { return e.flags == removedEntry })
	}
}

const removedEntry = 1<<32 - 1

// apply takes a delta over.
func (g *ledger) apply(ch *changes) {
	for i := range ch.flags {
		g.set(ch.flags[i].UID, ch.flags[i].Flags, false)
	}
	for i := range ch.fresh.entries {
		e := &ch.fresh.entries[i]
		g.set(e.uid, ch.fresh.flags(e), true)
	}
	g.remove(ch.vanished)
	for uid := range ch.fresh.dropped {
		g.remove(imap.UIDSetNum(uid))
	}
}

// without is the sum and the number of the messages that are not in skip.
func (g *ledger) without(skip map[imap.UID]string) (sum [32]byte, count uint32) {
	sum, count = g.sum, uint32(len(g.entries))
	for uid := range skip {
		if i, ok := g.find(uid); ok {
			backend.SubSum(&sum, backend.SumMessage(uid, g.lists[g.entries[i].flags]))
			count--
		}
	}
	return sum, count
}

// forget drops all ledgers; the sums stay.
func (a *account) forget() {
	if a == nil {
		return
	}
	for _, b := range a.boxes {
		b.ledger = nil
	}
}
