package store

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"iter"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
)

// Reread implements backend.Rereader. It holds a view until it ends.
func (m *mailboxImport) Reread(ctx context.Context, pick func(imap.UID) bool) iter.Seq2[backend.RereadMessage, error] {
	return func(yield func(backend.RereadMessage, error) bool) {
		v, err := m.store.view(ctx, m.shard)
		if err != nil {
			yield(backend.RereadMessage{}, err)
			return
		}
		s, err := newSnapshot(v, m.user.ID, m.mailbox)
		if err != nil {
			v.Close()
			yield(backend.RereadMessage{}, err)
			return
		}
		defer s.Close()
		h, buf := &rereadHash{sha256.New(), sha1.New()}, make([]byte, 64<<10)
		for msg, err := range s.Messages(allUIDs()) {
			if err == nil {
				err = ctx.Err()
			}
			if err == nil && !pick(msg.UID) {
				continue
			}
			r := backend.RereadMessage{UID: msg.UID, Filed: msg.Digest, FiledSize: msg.Size}
			if err == nil {
				err = m.reread(&msg, &r, h, buf)
			}
			if !yield(r, err) || err != nil {
				return
			}
		}
	}
}

// rereadHash makes both digests of a RereadMessage.
type rereadHash struct{ full, short hash.Hash }

func (h *rereadHash) Write(p []byte) (int, error) {
	h.short.Write(p)
	return h.full.Write(p)
}

// reread hashes one body as it lies on disk.
func (m *mailboxImport) reread(msg *Message, to *backend.RereadMessage, h *rereadHash, buf []byte) error {
	r, err := m.shard.OpenBody(msg.Body)
	if err != nil {
		return fmt.Errorf("body of UID %d: %w", msg.UID, engineError(err))
	}
	defer r.Close()
	h.full.Reset()
	h.short.Reset()
	to.Size, err = io.CopyBuffer(h, struct{ io.Reader }{r}, buf)
	if err != nil {
		return fmt.Errorf("body of UID %d: %w", msg.UID, engineError(err))
	}
	h.full.Sum(to.Digest[:0])
	h.short.Sum(to.SHA1[:0])
	return nil
}
