package store

import (
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"
)

// systemFlags are the flags with a bit of their own, in the order in which they
// are shown. \Recent is none of them: it belongs to a session.
var systemFlags = [...]imap.Flag{imap.FlagSeen, imap.FlagAnswered, imap.FlagFlagged, imap.FlagDeleted, imap.FlagDraft}

const (
	bitSeen = 1 << iota
	bitAnswered
	bitFlagged
	bitDeleted
	bitDraft
)

// flagSet is a message's flags: a bit per system flag, and the keywords as
// ascending indexes into the mailbox's keyword table.
type flagSet struct {
	Bits     byte
	Keywords []uint32
}

func (f flagSet) has(bit byte) bool { return f.Bits&bit != 0 }

func (f flagSet) equal(g flagSet) bool {
	return f.Bits == g.Bits && slices.Equal(f.Keywords, g.Keywords)
}

// apply is the outcome of a STORE with flags g on f.
func (f flagSet) apply(op FlagOp, g flagSet) flagSet {
	switch op {
	case FlagsAdd:
		out := flagSet{Bits: f.Bits | g.Bits, Keywords: f.Keywords}
		for _, k := range g.Keywords {
			if i, found := slices.BinarySearch(out.Keywords, k); !found {
				out.Keywords = slices.Insert(slices.Clone(out.Keywords), i, k)
			}
		}
		return out
	case FlagsRemove:
		out := flagSet{Bits: f.Bits &^ g.Bits}
		for _, k := range f.Keywords {
			if _, found := slices.BinarySearch(g.Keywords, k); !found {
				out.Keywords = append(out.Keywords, k)
			}
		}
		return out
	default:
		return g
	}
}

func (e *encoder) flags(f flagSet) {
	e.byte(f.Bits)
	e.uint(uint64(len(f.Keywords)))
	for _, k := range f.Keywords {
		e.uint(uint64(k))
	}
}

func (d *decoder) flags() flagSet {
	f := flagSet{Bits: d.byte()}
	n := d.count()
	if n == 0 {
		return f
	}
	f.Keywords = make([]uint32, 0, min(n, 64))
	for range n {
		f.Keywords = append(f.Keywords, d.uint32())
	}
	return f
}

// keywordTable names the keywords of a mailbox. Entries are only added, so an
// index stays valid for ever.
type keywordTable []string

func (t keywordTable) index(name string) int {
	return slices.IndexFunc(t, func(s string) bool { return strings.EqualFold(s, name) })
}

// flags shows a set; an index outside the table is left out.
func (t keywordTable) flags(f flagSet) []imap.Flag {
	out := make([]imap.Flag, 0, 2+len(f.Keywords))
	for i, name := range systemFlags {
		if f.Bits&(1<<i) != 0 {
			out = append(out, name)
		}
	}
	for _, k := range f.Keywords {
		if int(k) < len(t) {
			out = append(out, imap.Flag(t[k]))
		}
	}
	return out
}

// add returns the set of flags and the table with the keywords that were new.
// ok is false when the mailbox would get too many. \Recent is dropped.
func (t keywordTable) add(flags []imap.Flag) (f flagSet, grown keywordTable, ok bool) {
	for _, flag := range flags {
		if bit, system := systemBit(flag); system {
			f.Bits |= bit
			continue
		}
		i := t.index(string(flag))
		if i < 0 {
			if len(t) >= maxKeywords {
				return flagSet{}, t, false
			}
			i, t = len(t), append(t[:len(t):len(t)], string(flag))
		}
		if at, found := slices.BinarySearch(f.Keywords, uint32(i)); !found {
			f.Keywords = slices.Insert(f.Keywords, at, uint32(i))
		}
	}
	return f, t, true
}

// lookup is add for removal: keywords that the mailbox does not know are left out.
func (t keywordTable) lookup(flags []imap.Flag) flagSet {
	known := flags[:0:0]
	for _, flag := range flags {
		if _, system := systemBit(flag); system || t.index(string(flag)) >= 0 {
			known = append(known, flag)
		}
	}
	f, _, _ := t.add(known)
	return f
}

// systemBit is the bit of a system flag; \Recent is one without a bit.
func systemBit(flag imap.Flag) (bit byte, ok bool) {
	if flag == "" || flag[0] != '\\' {
		return 0, false
	}
	for i, name := range systemFlags {
		if strings.EqualFold(string(flag), string(name)) {
			return 1 << i, true
		}
	}
	return 0, strings.EqualFold(string(flag), `\Recent`)
}
