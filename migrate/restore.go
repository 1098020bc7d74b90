package migrate

import (
	"context"
	"fmt"

	"mailferry/backend"
)

// restore takes over what an earlier run left at the target: mailboxes that were
// sealed and not touched since are followed from where that seal stood, so that
// an unchanged account costs its survey and no listing. What was skipped then
// does not count as copied, so that such a mailbox is compared once more.
func (a *account) restore(pl *plan) {
	for _, p := range pl.boxes {
		m, ok := a.imported[p.name]
		if !ok || a.boxes[p.name] != nil {
			continue
		}
		switch {
		case m.NoSelect && p.hollow:
			a.boxes[p.name] = &box{planned: p, summed: true}
			a.boxes[p.name].special = m.SpecialUse
		case !m.NoSelect && !p.hollow && m.Sealed && m.UIDNext > 0 && m.SealedModSeq > 0:
			b := &box{planned: p, validity: m.UIDValidity, next: m.UIDNext, modseq: m.SealedModSeq, count: m.Messages,
				firstRecent: m.FirstRecent, sealed: true}
			b.special = m.SpecialUse
			a.boxes[p.name] = b
		}
	}
}

// opened opens the target's mailbox of a restored box.
func (a *account) opened(ctx context.Context, b *box) error {
	if b.imp != nil || b.hollow || b.validity == 0 {
		return nil
	}
	imp, err := a.imp.Open(ctx, backend.ImportMailbox{Name: b.name, UIDValidity: b.validity, SpecialUse: b.special})
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	b.imp = imp
	return nil
}
