package target

import (
	"context"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// Vanish implements backend.MailboxImport. The target loses messages only where
// the rules say so.
func (b *mailbox) Vanish(ctx context.Context, uids imap.UIDSet, _ uint64) error {
	b.i.mu.Lock()
	defer b.i.mu.Unlock()
	var dst imap.UIDSet
	var src []imap.UID
	if err := b.m.each(func(r record) bool {
		if uids.Contains(imap.UID(r.src)) {
			src = append(src, imap.UID(r.src))
			if r.state == stateStored {
				dst.AddNum(imap.UID(r.dst))
			}
		}
		return true
	}); err != nil {
		return err
	}
	if b.i.o.Rules.Delete && len(dst) > 0 {
		if err := b.expunge(ctx, dst); err != nil {
			return err
		}
	} else if len(dst) > 0 {
		b.i.note(backend.ImportNote{Mailbox: b.name, What: "messages that were expunged at the old store stay at the target (delete is off)"})
	}
	b.state.Lock()
	for uid := range b.refused {
		if uids.Contains(uid) {
			delete(b.refused, uid)
		}
	}
	b.state.Unlock()
	for _, uid := range src {
		if err := b.m.settle(uid, stateGone, 0); err != nil {
			return err
		}
	}
	return nil
}

// expunge removes messages from the target, those and no others; callers hold
// i.mu.
func (b *mailbox) expunge(ctx context.Context, dst imap.UIDSet) error {
	return b.selected(ctx, func(c *remote.Client) error {
		if !c.Has("UIDPLUS") {
			b.i.note(backend.ImportNote{Mailbox: b.name, What: "the target cannot expunge single messages (UIDPLUS): they are marked \\Deleted"})
		}
		for part := range chunks(dst) {
			errs, err := c.StoreFlags(ctx, []remote.FlagStore{{UIDs: part, Change: remote.AddFlags, Flags: []imap.Flag{imap.FlagDeleted}}})
			if err != nil {
				return err
			}
			if errs[0] != nil {
				return errs[0]
			}
			if c.Has("UIDPLUS") {
				if err := c.ExpungeUIDs(ctx, part); err != nil {
					return err
				}
				b.gone(part)
			}
		}
		return nil
	})
}

// gone counts messages that the target has expunged.
func (b *mailbox) gone(set imap.UIDSet) {
	b.state.Lock()
	defer b.state.Unlock()
	for _, r := range set {
		b.exists -= min(uint32(r.Stop-r.Start)+1, b.exists)
	}
}
