package migrate

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"fmt"
	"hash"
	"slices"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend/remote"
)

// auditChunk is how many messages are compared at a time.
const auditChunk = 1000

// bodies compares the octets of the share that the options ask for.
func (a *auditor) bodies(ctx context.Context, box string, lists [2]*listing, common []imap.UID) error {
	var picked []imap.UID
	for _, uid := range common {
		if sampled(uid, a.o.Bodies) {
			picked = append(picked, uid)
		}
	}
	for chunk := range slices.Chunk(picked, auditChunk) {
		sums, err := a.sums(ctx, lists, [2][]imap.UID{chunk, chunk})
		if err != nil {
			return err
		}
		for _, uid := range chunk {
			x, okX := sums[0][uid]
			y, okY := sums[1][uid]
			switch {
			case !okX && !okY: // gone since the listing, at both
			case !okX || !okY:
				a.differ(ClassOctets, box, uid, "only one store gives this message")
			case x != y:
				a.differ(ClassOctets, box, uid, "digest %x became %x", x[:8], y[:8])
			}
			a.res.Bodies++
		}
	}
	return nil
}

// bodySum is SHA-256 of a body, or SHA-1 and zeros.
type bodySum [sha256.Size]byte

// sums gives the digests of messages of both sides, by SHA-1 where one of the
// stores can tell that by itself.
func (a *auditor) sums(ctx context.Context, lists [2]*listing, uids [2][]imap.UID) (out [2]map[imap.UID]bodySum, err error) {
	var told [2]bool
	for i := range a.sides {
		out[i] = make(map[imap.UID]bodySum, len(uids[i]))
		told[i], err = a.sides[i].c.ServerSums(ctx, setOf(uids[i]), func(uid imap.UID, sum []byte) error {
			out[i][uid] = bodySum(append(bytes.Clone(sum), make([]byte, sha256.Size-sha1.Size)...))
			return nil
		})
		if err != nil {
			return out, fmt.Errorf("%s: %w", a.sides[i].name, err)
		}
	}
	algorithm := sha256.New
	if told[0] || told[1] {
		algorithm = sha1.New
	}
	return out, both(func(i int) error {
		if told[i] || len(uids[i]) == 0 {
			return nil
		}
		if err := fetchSums(ctx, a.sides[i].c, lists[i], uids[i], algorithm(), out[i]); err != nil {
			return fmt.Errorf("%s: %w", a.sides[i].name, err)
		}
		return nil
	})
}

func fetchSums(ctx context.Context, c *remote.Client, l *listing, uids []imap.UID, h hash.Hash, out map[imap.UID]bodySum) error {
	size := func(i int) int64 {
		if j := l.index(uids[i]); j >= 0 {
			return int64(l.entries[j].size)
		}
		return 0
	}
	return c.BodySums(ctx, uids, size, h, func(uid imap.UID, _ int64, sum []byte) error {
		var s bodySum
		copy(s[:], sum)
		out[uid] = s
		return nil
	})
}

// setOf is the set of ascending UIDs.
func setOf(uids []imap.UID) (set imap.UIDSet) {
	for _, uid := range uids {
		if n := len(set); n > 0 && set[n-1].Stop+1 == uid {
			set[n-1].Stop = uid
		} else {
			set = append(set, imap.UIDRange{Start: uid, Stop: uid})
		}
	}
	return set
}

// contentKey pairs messages of stores that do not share UIDs.
type contentKey struct {
	sum  bodySum
	date int64
}

// byContent pairs the messages of both sides by octets, and by date among
// equal ones; what has no pair by date is paired by octets alone.
func (a *auditor) byContent(ctx context.Context, box string, lists [2]*listing) error {
	var sums [2]map[imap.UID]bodySum
	var uids [2][]imap.UID
	for i, l := range lists {
		for _, e := range l.entries {
			uids[i] = append(uids[i], e.uid)
		}
		sums[i] = make(map[imap.UID]bodySum, len(uids[i]))
	}
	err := both(func(i int) error { return fetchSums(ctx, a.sides[i].c, lists[i], uids[i], sha256.New(), sums[i]) })
	if err != nil {
		return err
	}
	there := make(map[contentKey][]int)
	for j := range lists[1].entries {
		e := &lists[1].entries[j]
		k := contentKey{sums[1][e.uid], lists[1].at(e)}
		there[k] = append(there[k], j)
	}
	var rest []int
	for j := range lists[0].entries {
		e := &lists[0].entries[j]
		if !a.pair(box, lists, j, there, contentKey{sums[0][e.uid], lists[0].at(e)}) {
			rest = append(rest, j)
		}
		a.res.Bodies++
	}
	undated := make(map[contentKey][]int)
	for k, left := range there {
		undated[contentKey{sum: k.sum}] = append(undated[contentKey{sum: k.sum}], left...)
	}
	for _, j := range rest {
		e := &lists[0].entries[j]
		if !a.pair(box, lists, j, undated, contentKey{sum: sums[0][e.uid]}) {
			a.differ(ClassMissing, box, e.uid, "no message with these octets at %s", a.sides[1].name)
		}
	}
	for _, left := range undated {
		for _, j := range left {
			a.differ(ClassExtra, box, 0, "UID %d at %s", lists[1].entries[j].uid, a.sides[1].name)
		}
	}
	return nil
}

// pair takes the best of the messages under k, one with the same flags first,
// and compares it with message j.
func (a *auditor) pair(box string, lists [2]*listing, j int, under map[contentKey][]int, k contentKey) bool {
	list := under[k]
	if len(list) == 0 {
		return false
	}
	e, at := &lists[0].entries[j], 0
	for i, o := range list {
		if sameFlags(lists[0].flags(e), lists[1].flags(&lists[1].entries[o])) {
			at = i
			break
		}
	}
	a.message(box, lists, e, &lists[1].entries[list[at]])
	under[k] = slices.Delete(list, at, at+1)
	return true
}
