package migrate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// vouched leaves the messages of which the store's word is confirmed, by the
// digest of each or else by some of them.
func (a *account) vouched(ctx context.Context, c *remote.Client, l *listing, chunk []stray, found map[idHash]*origin) (good []stray, digests bool, err error) {
	sums := make(map[imap.UID][]byte)
	told := true
	for part := range chunks(setOfStrays(chunk), 200) {
		ok, err := c.ServerSums(ctx, part, func(uid imap.UID, sum []byte) error {
			sums[uid] = bytes.Clone(sum)
			return nil
		})
		if err != nil {
			return nil, false, err
		}
		if told = told && ok; !told {
			break
		}
	}
	if !told {
		if a.onHold && a.strict { // nobody would ask for them again
			return nil, false, nil
		}
		good, err = a.sampledStrays(ctx, c, l, chunk, found)
		return good, false, err
	}
	if err := a.hashOrigins(ctx, chunk, found); err != nil {
		return nil, false, err
	}
	return slices.DeleteFunc(chunk, func(s stray) bool { return !bytes.Equal(sums[s.uid], found[s.id].sha1[:]) }), true, nil
}

// hashOrigins makes the SHA-1 of bodies of the target.
func (a *account) hashOrigins(ctx context.Context, chunk []stray, found map[idHash]*origin) error {
	byBox := make(map[idName]map[imap.UID][]*origin)
	for _, s := range chunk {
		o := found[s.id]
		if byBox[o.box] == nil {
			byBox[o.box] = make(map[imap.UID][]*origin)
		}
		byBox[o.box][o.uid] = append(byBox[o.box][o.uid], o)
	}
	for name, b := range a.boxes {
		picked := byBox[nameOf(name, b.validity)]
		r, ok := b.imp.(backend.Rereader)
		if len(picked) == 0 || !ok {
			continue
		}
		for m, err := range r.Reread(ctx, func(uid imap.UID) bool { return picked[uid] != nil }) {
			if err != nil {
				return fmt.Errorf("read %q again: %w", b.shown, err)
			}
			for _, o := range picked[m.UID] {
				if m.Digest == o.full {
					o.sha1 = m.SHA1
				}
			}
		}
	}
	return nil
}

// sampledStrays wants equal dates, and the same octets of a few. When the store
// gives less than half of these, nothing is confirmed.
func (a *account) sampledStrays(ctx context.Context, c *remote.Client, l *listing, chunk []stray, found map[idHash]*origin) ([]stray, error) {
	chunk = slices.DeleteFunc(chunk, func(s stray) bool {
		e := &l.entries[l.index(s.uid)]
		return e.date == noDate || l.at(e) != found[s.id].date
	})
	if len(chunk) == 0 {
		return nil, nil
	}
	n := min(len(chunk), 3+len(chunk)/100)
	sample := make(map[imap.UID]stray, n)
	uids := make([]imap.UID, 0, n)
	for i := range n {
		s := chunk[i*(len(chunk)-1)/max(n-1, 1)]
		if _, ok := sample[s.uid]; !ok {
			sample[s.uid] = s
			uids = append(uids, s.uid)
		}
	}
	good, came := true, 0
	size := func(i int) int64 { return found[sample[uids[i]].id].size }
	err := c.BodySums(ctx, uids, size, sha256.New(), func(uid imap.UID, _ int64, sum []byte) error {
		if s, ok := sample[uid]; ok {
			came++
			good = good && bytes.Equal(sum, found[s.id].full[:])
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case !good:
		return nil, a.distrust(ctx)
	case came*2 < len(uids):
		return nil, nil
	}
	return chunk, nil
}
