package migrate

import (
	"context"
	"fmt"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
)

// defaultReread is the share of messages, in percent, whose bodies are read
// again from the new store's disk.
const defaultReread = 10

// sampled picks percent of all UIDs, the same ones each time.
func sampled(uid imap.UID, percent int) bool {
	x := uint64(uid) * 0x9e3779b97f4a7c15 // Fibonacci hashing spreads runs
	return int((x>>33)%100) < percent
}

// reread proves, before the hold, that the new store gives back what it was
// given: of the messages that came since the last call, percent are read from
// its disk and hashed again. What comes in the hold is not read again. A store
// that cannot do so is left out; one that keeps it in mind is not asked for the
// same messages by the next run.
func (a *account) reread(ctx context.Context, percent int) error {
	due, picks := []*box(nil), make(map[backend.MailboxName]func(imap.UID) bool)
	for _, name := range a.names() {
		b := a.boxes[name]
		if err := a.opened(ctx, b); err != nil {
			return err
		}
		if _, ok := b.imp.(backend.Rereader); !ok || b.hollow || percent <= 0 {
			continue
		}
		if k, ok := b.imp.(backend.RereadKeeper); ok {
			b.reread = k.RereadUpTo(percent)
		}
		if uint32(b.reread)+1 < b.next {
			due = append(due, b)
			picks[name] = func(uid imap.UID) bool { return uid > b.reread && sampled(uid, percent) }
		}
	}
	if g, ok := a.imp.(backend.GroupRereader); ok && len(due) > 1 {
		if err := g.RereadAhead(ctx, picks); err != nil {
			return fmt.Errorf("read again: %w", err)
		}
	}
	for _, b := range due {
		for m, err := range b.imp.(backend.Rereader).Reread(ctx, picks[b.name]) {
			if err != nil {
				return fmt.Errorf("read %q again: %w", b.shown, err)
			}
			if m.Digest != m.Filed || m.Size != m.FiledSize {
				return errDiffers(b.shown, "UID %d: the new store took %d octets %s and gives %d octets %s", m.UID,
					m.FiledSize, hexSum(m.Filed), m.Size, hexSum(m.Digest))
			}
			a.rereads++
		}
		b.reread = imap.UID(b.next - 1)
		if k, ok := b.imp.(backend.RereadKeeper); ok {
			if err := k.SetReread(b.reread, percent); err != nil {
				return fmt.Errorf("read %q again: %w", b.shown, err)
			}
		}
	}
	return nil
}
