package store

import (
	"context"
	"errors"
	"io"
	"iter"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/cluster/engine"
)

var (
	_ backend.MaildropReader = (*userImport)(nil)
	_ backend.BodyOpener     = (*mailboxImport)(nil)
)

// Maildrop implements backend.MaildropReader by what POP3 itself serves.
func (i *userImport) Maildrop(ctx context.Context) iter.Seq2[backend.MaildropEntry, error] {
	return func(yield func(backend.MaildropEntry, error) bool) {
		drop, err := i.maildrop(ctx)
		if err != nil {
			yield(backend.MaildropEntry{}, err)
			return
		}
		for n := range drop.Messages {
			m := &drop.Messages[n]
			if !yield(backend.MaildropEntry{UID: m.UID, UIDL: drop.UIDL(m), Size: m.Size}, nil) {
				return
			}
		}
	}
}

func (i *userImport) maildrop(ctx context.Context) (*Maildrop, error) {
	u, err := i.store.readUser(ctx, i.user.Name) // the format may have changed
	if err != nil {
		return nil, err
	}
	v, err := i.store.view(ctx, i.shard)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	return readMaildrop(v, u)
}

// OpenBody implements backend.BodyOpener.
func (m *mailboxImport) OpenBody(ctx context.Context, uid imap.UID) (io.ReadCloser, error) {
	v, err := m.store.view(ctx, m.shard)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	raw, err := v.Get(uidKey(prefixMessage, m.user.ID, m.mailbox, uid))
	if errors.Is(err, engine.ErrNotFound) {
		return nil, backend.NewError(backend.KindNotFound, "no such message")
	}
	if err != nil {
		return nil, engineError(err)
	}
	rec, err := decodeMessage(raw)
	if err != nil {
		return nil, engineError(err)
	}
	r, err := m.shard.OpenBody(rec.Body)
	if err != nil {
		return nil, engineError(err)
	}
	return r, nil
}
