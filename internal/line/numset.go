package line

import (
	"slices"
	"strconv"

	"github.com/emersion/go-imap/v2"
)

// Range is a range of message numbers or UIDs, as it was written: 0 stands for
// "*", and Start may be the larger.
type Range struct{ Start, Stop uint32 }

// NumSet is a sequence-set (RFC 9051 section 9), as it was written.
type NumSet []Range

// AppendNumSet parses s. ok is false when it is not a sequence-set.
func AppendNumSet(set NumSet, s []byte) (_ NumSet, ok bool) {
	for {
		var r Range
		var n int
		if r.Start, n = setNumber(s); n == 0 {
			return set, false
		}
		s = s[n:]
		r.Stop = r.Start
		if len(s) > 0 && s[0] == ':' {
			if r.Stop, n = setNumber(s[1:]); n == 0 {
				return set, false
			}
			s = s[1+n:]
		}
		set = append(set, r)
		if len(s) == 0 {
			return set, true
		}
		if s[0] != ',' {
			return set, false
		}
		s = s[1:]
	}
}

// setNumber parses a seq-number; n is its length, 0 when there is none.
func setNumber(s []byte) (v uint32, n int) {
	if len(s) > 0 && s[0] == '*' {
		return 0, 1
	}
	var u uint64
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		if u = u*10 + uint64(s[n]-'0'); u > 1<<32-1 {
			return 0, 0
		}
		n++
	}
	if u == 0 {
		return 0, 0
	}
	return uint32(u), n
}

// Resolve puts last in place of "*" and returns the ranges in ascending order,
// each Start <= Stop, without overlaps or neighbours. With last 0 (an empty
// mailbox) "*" ranges stand for nothing below their other end.
func (s NumSet) Resolve(last uint32) NumSet {
	out := make(NumSet, 0, len(s))
	for _, r := range s {
		if r.Start == 0 {
			r.Start = last
		}
		if r.Stop == 0 {
			r.Stop = last
		}
		if r.Start > r.Stop {
			r.Start, r.Stop = r.Stop, r.Start
		}
		if r.Start == 0 {
			r.Start = 1
		}
		if r.Stop != 0 {
			out = append(out, r)
		}
	}
	ascending := func(a, b Range) int {
		switch {
		case a.Start < b.Start:
			return -1
		case a.Start > b.Start:
			return 1
		}
		return 0
	}
	if !slices.IsSortedFunc(out, ascending) {
		slices.SortFunc(out, ascending)
	}
	return out.merged()
}

// merged joins neighbours of an ascending set, in place.
func (s NumSet) merged() NumSet {
	if len(s) == 0 {
		return s
	}
	w := 0
	for _, r := range s[1:] {
		if uint64(r.Start) <= uint64(s[w].Stop)+1 {
			s[w].Stop = max(s[w].Stop, r.Stop)
			continue
		}
		w++
		s[w] = r
	}
	return s[:w+1]
}

// Count is the number of numbers in a resolved set.
func (s NumSet) Count() (n uint64) {
	for _, r := range s {
		n += uint64(r.Stop) - uint64(r.Start) + 1
	}
	return n
}

// Contains reports whether n is in a resolved set.
func (s NumSet) Contains(n uint32) bool {
	i, found := slices.BinarySearchFunc(s, n, func(r Range, n uint32) int {
		switch {
		case r.Stop < n:
			return -1
		case r.Start > n:
			return 1
		}
		return 0
	})
	return found && i < len(s)
}

// Add appends n to an ascending set.
func (s NumSet) Add(n uint32) NumSet {
	if k := len(s); k > 0 && s[k-1].Stop+1 == n {
		s[k-1].Stop = n
		return s
	}
	return append(s, Range{n, n})
}

// UIDSet copies a resolved set.
func (s NumSet) UIDSet() imap.UIDSet {
	out := make(imap.UIDSet, len(s))
	for i, r := range s {
		out[i] = imap.UIDRange{Start: imap.UID(r.Start), Stop: imap.UID(r.Stop)}
	}
	return out
}

// FromUIDSet copies set.
func FromUIDSet(set imap.UIDSet) NumSet {
	out := make(NumSet, len(set))
	for i, r := range set {
		out[i] = Range{uint32(r.Start), uint32(r.Stop)}
	}
	return out
}

// AppendTo appends the set's form on the wire.
func (s NumSet) AppendTo(b []byte) []byte {
	number := func(n uint32) {
		if n == 0 {
			b = append(b, '*')
			return
		}
		b = strconv.AppendUint(b, uint64(n), 10)
	}
	for i, r := range s {
		if i > 0 {
			b = append(b, ',')
		}
		number(r.Start)
		if r.Stop != r.Start {
			b = append(b, ':')
			number(r.Stop)
		}
	}
	return b
}

func (s NumSet) String() string { return string(s.AppendTo(nil)) }
