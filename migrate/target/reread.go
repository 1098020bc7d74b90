package target

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"io"
	"iter"
	"maps"
	"slices"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// Reread implements backend.Rereader: bodies are fetched from the target. Those
// in which the target changed what stores use to change are noted and left out.
// Filed is known by a shorter digest only: it is Digest where that is right.
func (b *mailbox) Reread(ctx context.Context, pick func(imap.UID) bool) iter.Seq2[backend.RereadMessage, error] {
	return func(yield func(backend.RereadMessage, error) bool) {
		var picked []record
		err := b.m.each(func(r record) bool {
			if r.state == stateStored && pick(imap.UID(r.src)) {
				picked = append(picked, r)
			}
			return true
		})
		for part := range slices.Chunk(picked, 1000) {
			if err != nil {
				break
			}
			var read map[imap.UID]content
			if read, err = b.read(ctx, part); err != nil {
				break
			}
			for _, r := range part {
				got, ok := read[imap.UID(r.dst)]
				if !ok {
					continue // its owner may have expunged it at the target
				}
				m := backend.RereadMessage{UID: imap.UID(r.src), Size: got.size, FiledSize: int64(r.size), Digest: got.sha256, SHA1: got.sha1, Filed: got.sha256}
				switch {
				case r.digest == got.digest:
				case r.digest.id() == got.digest.id():
					b.i.note(backend.ImportNote{Mailbox: b.name, UID: m.UID, What: "the target rewrote octets of the message: line ends, NUL, or 8-bit in its header"})
					continue
				default:
					m.Filed = r.digest.wide()
				}
				if !yield(m, nil) {
					return
				}
			}
		}
		if err != nil {
			yield(backend.RereadMessage{}, err)
		}
	}
}

// RereadUpTo implements backend.RereadKeeper.
func (b *mailbox) RereadUpTo(percent int) imap.UID {
	if h := b.m.header(); int(h.RereadPercent) >= percent {
		return imap.UID(h.Reread)
	}
	return 0
}

// SetReread implements backend.RereadKeeper.
func (b *mailbox) SetReread(upTo imap.UID, percent int) error {
	return b.m.setHead(func(h *mapHeader) { h.Reread, h.RereadPercent = uint32(upTo), uint32(percent) })
}

// sentNow has what is sent from now on read again, also where its UIDs are
// below those that were: a filter or a refusal had kept it back.
func (b *mailbox) sentNow(recs []record) error {
	return b.m.setHead(func(h *mapHeader) {
		for _, r := range recs {
			h.Reread = min(h.Reread, r.src-1)
		}
	})
}

func (b *mailbox) read(ctx context.Context, recs []record) (read map[imap.UID]content, err error) {
	b.i.mu.Lock()
	defer b.i.mu.Unlock()
	ahead := b.ahead
	b.ahead = nil
	var uids []imap.UID
	for _, r := range recs {
		if _, ok := ahead[imap.UID(r.dst)]; !ok {
			uids = append(uids, imap.UID(r.dst))
		}
	}
	if len(uids) == 0 {
		return ahead, nil
	}
	slices.Sort(uids)
	err = b.selected(ctx, func(c *remote.Client) error {
		src := newDigester(uids)
		src.full = true
		read = src.got
		return c.FetchBodies(ctx, src, remote.Window{})
	})
	maps.Copy(read, ahead)
	return read, err
}

// content is what the target gives for a message.
type content struct {
	digest digest
	size   int64
	sha256 [32]byte
	sha1   [20]byte
}

// contents fetches bodies of the selected mailbox and digests them.
func contents(ctx context.Context, c *remote.Client, uids []imap.UID) (map[imap.UID]content, error) {
	src := newDigester(uids)
	return src.got, c.FetchBodies(ctx, src, remote.Window{})
}

// digester is a remote.BodySource.
type digester struct {
	todo []imap.UID
	got  map[imap.UID]content
	last *content
	buf  []byte
	full bool // SHA-256 and SHA-1 of the octets, too
}

func newDigester(uids []imap.UID) *digester {
	return &digester{todo: uids, got: make(map[imap.UID]content), buf: make([]byte, 64<<10)}
}

func (d *digester) NextSet() (set imap.UIDSet, octets int64, ok bool) {
	if len(d.todo) == 0 {
		return nil, 0, false
	}
	n := min(len(d.todo), 100)
	set.AddNum(d.todo[:n]...)
	d.todo = d.todo[n:]
	return set, int64(n) * 16 << 10, true
}

func (d *digester) Body(size int64, r io.Reader) error {
	id := newIdentity()
	to, h256, h1 := io.Writer(id), sha256.New(), sha1.New()
	if d.full {
		to = io.MultiWriter(id, h256, h1)
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{r}, d.buf); err != nil {
		return err
	}
	d.last = &content{digest: id.sum(), size: size}
	h256.Sum(d.last.sha256[:0])
	h1.Sum(d.last.sha1[:0])
	return nil
}

func (d *digester) Message(m *remote.Meta) error {
	if m.UID != 0 && m.Body == remote.BodyRead && d.last != nil {
		d.got[m.UID] = *d.last
	}
	d.last = nil
	return nil
}

func (d *digester) Answered(_ imap.UIDSet, _ error) error { return nil }
