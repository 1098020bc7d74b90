package migrate

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// proveChunk bounds the digests of the old store that are kept: 64 octets each.
const proveChunk = 100_000

// proof is what the old store says of one message, the second time.
type proof struct {
	uid  imap.UID
	size int64 // as filed
	sum  []byte
}

// prove compares both stores message by message: of those that came since the
// last call, percent are asked of the old store a second time, over a connection
// of its own, and have to be what the new store reads from its disk. A store that
// knows the digests of its messages is asked for these alone. It returns how
// many were compared; messages that went meanwhile are left out.
func (a *account) prove(ctx context.Context, percent int) (int, error) {
	if percent <= 0 {
		return 0, nil
	}
	var c *remote.Client
	defer func() {
		if c != nil {
			_ = c.Logout()
		}
	}()
	total := 0
	for _, name := range a.names() {
		b := a.boxes[name]
		r, ok := b.imp.(backend.Rereader)
		if !ok || b.hollow || uint32(b.proved)+1 >= b.next {
			continue
		}
		picked, err := b.pickProofs(ctx, percent)
		if err != nil {
			return total, fmt.Errorf("list %q: %w", b.shown, err)
		}
		if len(picked) > 0 && c == nil {
			if c, err = a.dial(ctx); err != nil {
				return total, err
			}
		}
		for chunk := range slices.Chunk(picked, proveChunk) {
			n, err := a.proveBox(ctx, c, b, r, chunk)
			if total += n; err != nil {
				return total, err
			}
		}
		b.proved = imap.UID(b.next - 1)
	}
	a.proved += uint64(total)
	return total, nil
}

// secondLook is what is read again of both stores before a hold.
func (d *driver) secondLook(ctx context.Context) error {
	if err := d.acct.reread(ctx, d.b.spec.reread()); err != nil {
		return err
	}
	_, err := d.acct.prove(ctx, d.b.spec.prove(d.route.from))
	return err
}

// pickProofs are the messages to compare, in UID order.
func (b *box) pickProofs(ctx context.Context, percent int) (picked []proof, err error) {
	for m, err := range b.imp.Messages(ctx) {
		if err != nil {
			return nil, err
		}
		if m.UID > b.proved && sampled(m.UID, percent) {
			picked = append(picked, proof{uid: m.UID, size: m.Size})
		}
	}
	return picked, nil
}

func (a *account) proveBox(ctx context.Context, c *remote.Client, b *box, r backend.Rereader, chunk []proof) (n int, err error) {
	sel, err := c.Examine(ctx, b.raw, remote.SelectOptions{})
	if err != nil || sel.UIDValidity != b.validity {
		return 0, err // another UIDVALIDITY: the next pass sees it, too
	}
	if err := askProofs(ctx, c, chunk); err != nil {
		return 0, fmt.Errorf("ask for %q again: %w", b.shown, err)
	}
	find := func(uid imap.UID) *proof {
		i, ok := slices.BinarySearchFunc(chunk, uid, func(p proof, u imap.UID) int { return int(int64(p.uid) - int64(u)) })
		if !ok || chunk[i].sum == nil {
			return nil
		}
		return &chunk[i]
	}
	for m, err := range r.Reread(ctx, func(uid imap.UID) bool { return find(uid) != nil }) {
		if err != nil {
			return n, fmt.Errorf("read %q again: %w", b.shown, err)
		}
		now := m.Digest[:]
		p := find(m.UID)
		if len(p.sum) == sha1.Size {
			now = m.SHA1[:]
		}
		if bytes.Equal(p.sum, now) {
			n++
			continue
		}
		if err := a.disproved(ctx, c, b, p, now); err != nil {
			return n, err
		}
	}
	return n, nil
}

// askProofs gets the old store's digests.
func askProofs(ctx context.Context, c *remote.Client, chunk []proof) error {
	uids := make([]imap.UID, len(chunk))
	for i := range chunk {
		uids[i] = chunk[i].uid
	}
	at := 0 // answers come in order, or else they are looked for
	keep := func(uid imap.UID, sum []byte) error {
		if at >= len(uids) || uids[at] != uid {
			i, ok := slices.BinarySearch(uids, uid)
			if !ok {
				return nil
			}
			at = i
		}
		chunk[at].sum = bytes.Clone(sum)
		at++
		return nil
	}
	for part := range chunks(setOf(uids), 200) {
		told, err := c.ServerSums(ctx, part, keep)
		if err != nil {
			return err
		}
		if !told {
			return c.BodySums(ctx, uids, func(i int) int64 { return chunk[i].size }, sha256.New(),
				func(uid imap.UID, _ int64, sum []byte) error { return keep(uid, sum) })
		}
	}
	return nil
}

// disproved tells a message that went from one that is another.
func (a *account) disproved(ctx context.Context, c *remote.Client, b *box, p *proof, now []byte) error {
	if err := c.Noop(ctx); err != nil { // the store may report expunges now
		return err
	}
	there := false
	_, err := c.FetchMeta(ctx, remote.FetchMeta{UIDs: fmt.Sprint(uint32(p.uid))}, func(m *remote.Meta) error {
		there = there || m.UID == p.uid
		return nil
	})
	if err != nil || !there {
		return err
	}
	if !c.Profile().StableBodies {
		b.note(Exception{Mailbox: b.shown, UID: p.uid, What: "the old store gives other octets at each fetch"})
		return nil
	}
	if a.ids.hasFiled(nameOf(b.name, b.validity)) {
		a.log.Warn("a message is not what its id says", "mailbox", b.shown, "uid", p.uid)
		if err := a.distrust(ctx); err != nil {
			return err
		}
		return backend.Errorf(backend.KindTemporary, "The old store's ids of messages are wrong: they are copied anew.", "mailbox %q: UID %d", b.raw, p.uid)
	}
	return errDiffers(b.shown, "UID %d: the old store gives %x at a second look, the new one has %x", p.uid, p.sum, now)
}
