package store

import (
	"cmp"
	"slices"

	"github.com/emersion/go-imap/v2"
)

// allUIDs is the set of every UID.
func allUIDs() imap.UIDSet { return imap.UIDSet{{Start: 1, Stop: 1<<32 - 1}} }

// normalise sorts a set and joins what overlaps or touches. A 0, which stands
// for '*' elsewhere, counts as the highest UID of all.
func normalise(set imap.UIDSet) imap.UIDSet {
	out := make(imap.UIDSet, 0, len(set))
	for _, r := range set {
		if r.Start == 0 {
			r.Start = 1<<32 - 1
		}
		if r.Stop == 0 {
			r.Stop = 1<<32 - 1
		}
		if r.Start > r.Stop {
			r.Start, r.Stop = r.Stop, r.Start
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b imap.UIDRange) int { return cmp.Compare(a.Start, b.Start) })
	n := 0
	for _, r := range out {
		if n > 0 && uint64(r.Start) <= uint64(out[n-1].Stop)+1 {
			out[n-1].Stop = max(out[n-1].Stop, r.Stop)
			continue
		}
		out[n] = r
		n++
	}
	return out[:n]
}

// from is the part of a normalised set with UIDs of at least first.
func from(set imap.UIDSet, first imap.UID) imap.UIDSet {
	for i, r := range set {
		if r.Stop < first {
			continue
		}
		rest := slices.Clone(set[i:])
		rest[0].Start = max(r.Start, first)
		return rest
	}
	return nil
}

// appendUID adds a UID above all others of the set.
func appendUID(set imap.UIDSet, uid imap.UID) imap.UIDSet {
	if n := len(set); n > 0 && set[n-1].Stop+1 == uid {
		set[n-1].Stop = uid
		return set
	}
	return append(set, imap.UIDRange{Start: uid, Stop: uid})
}

// appendUIDs adds a set whose UIDs are above all others.
func appendUIDs(set, more imap.UIDSet) imap.UIDSet {
	for i, r := range more {
		if n := len(set); i == 0 && n > 0 && set[n-1].Stop+1 == r.Start {
			set[n-1].Stop = r.Stop
			continue
		}
		set = append(set, r)
	}
	return set
}

// clip is the part of a normalised set within [first, last].
func clip(set imap.UIDSet, first, last imap.UID) imap.UIDSet {
	var out imap.UIDSet
	for _, r := range set {
		r.Start, r.Stop = max(r.Start, first), min(r.Stop, last)
		if r.Start <= r.Stop {
			out = append(out, r)
		}
	}
	return out
}
