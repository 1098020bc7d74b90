package proxy

import "mailferry/internal/line"

// maxViewRanges bounds what a view may cost (8 octets a range); a mailbox with
// more gaps is not carried over.
const maxViewRanges = 1 << 16

// view is what a client knows of its selected mailbox: the UIDs behind the
// sequence numbers 1 to len, ascending, as ranges.
type view struct {
	set line.NumSet
	n   uint32
	// bad: what was learned contradicts itself, or is too large.
	bad bool
}

// learn takes "message seq has this UID", in order of seq; repetitions must
// agree with what is known.
func (v *view) learn(seq, uid uint32) {
	switch {
	case seq == 0 || uid == 0:
		v.bad = true
	case seq <= v.n:
		v.bad = v.bad || v.uid(seq) != uid
	case seq > v.n+1:
		v.bad = true
	case v.n > 0 && uid <= v.set[len(v.set)-1].Stop:
		v.bad = true
	default:
		v.set = v.set.Add(uid)
		v.n++
		v.bad = v.bad || len(v.set) > maxViewRanges
	}
}

// uid is the UID of a message within the view.
func (v *view) uid(seq uint32) uint32 {
	for _, r := range v.set {
		size := r.Stop - r.Start + 1
		if seq <= size {
			return r.Start + seq - 1
		}
		seq -= size
	}
	return 0
}

// remove takes an EXPUNGE of message seq.
func (v *view) remove(seq uint32) {
	uid := v.uid(seq)
	if uid == 0 {
		v.bad = true
		return
	}
	v.n--
	for i, r := range v.set {
		if uid > r.Stop {
			continue
		}
		var parts line.NumSet
		if r.Start < uid {
			parts = append(parts, line.Range{Start: r.Start, Stop: uid - 1})
		}
		if uid < r.Stop {
			parts = append(parts, line.Range{Start: uid + 1, Stop: r.Stop})
		}
		v.set = append(append(append(line.NumSet{}, v.set[:i]...), parts...), v.set[i+1:]...)
		return
	}
}
