package target

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// exactRenames follows renames of the source. What is to be renamed is in the
// index before: mail under a name that no map has would be taken for others'.
// Callers hold mu.
func (i *account) exactRenames(ctx context.Context, p []*wanted, gone map[uint32]*mailbox, validity map[uint32]int) error {
	var renamed []*wanted
	for _, w := range p {
		b := gone[w.UIDValidity]
		if b == nil || w.LeftOut || w.UIDValidity == 0 || validity[w.UIDValidity] != 2 || i.boxes[w.Name] != nil || w.exists {
			continue
		}
		if err := i.rename(b, w); err != nil {
			return err
		}
		renamed = append(renamed, w)
	}
	if len(renamed) == 0 {
		return nil
	}
	if err := i.finishRenames(ctx); err != nil {
		return err
	}
	for _, w := range renamed {
		w.exists = true
	}
	return nil
}

// rename gives a map another name, and remembers the one that the mailbox has.
func (i *account) rename(b *mailbox, w *wanted) error {
	i.state.Lock()
	defer i.state.Unlock()
	from := cmp.Or(b.from, b.raw)
	if err := i.record(indexed{Name: w.Name, Raw: w.raw, File: b.file, From: from}); err != nil {
		return err
	}
	if err := i.record(indexed{Name: b.name, Gone: true}); err != nil {
		return err
	}
	delete(i.boxes, b.name)
	b.name, b.raw, b.from, b.checked, b.sel = w.Name, w.raw, from, false, nil
	i.boxes[w.Name] = b
	return nil
}

// finishRenames carries out what rename has recorded, parents first: their
// descendants go with them. The list is current afterwards. Callers hold mu.
func (i *account) finishRenames(ctx context.Context) error {
	var open []*mailbox
	for _, b := range i.mailboxes() {
		if b.from != "" {
			open = append(open, b)
		}
	}
	slices.SortFunc(open, func(x, y *mailbox) int { return cmp.Or(len(x.from)-len(y.from), cmp.Compare(x.from, y.from)) })
	for _, b := range open {
		if !i.has(b.raw) && i.has(b.from) {
			if err := i.do(ctx, func(c *remote.Client) error { return c.RenameMailbox(ctx, b.from, b.raw) }); err != nil {
				return fmt.Errorf("rename %q to %q: %w", b.from, b.raw, err)
			}
			i.o.Log.Info("renamed at the old store", "from", b.from, "to", b.raw)
			if err := i.do(ctx, func(c *remote.Client) (err error) {
				i.list, err = c.Survey(ctx)
				return err
			}); err != nil {
				return err
			}
		}
		if !i.has(b.raw) {
			return backend.Errorf(backend.KindTemporary, "A mailbox of the old store is gone.", "%q, which was to become %q", b.from, b.raw)
		}
		// Some servers give a renamed mailbox another UIDVALIDITY.
		if err := b.m.setHead(func(h *mapHeader) { h.DstValidity = 0 }); err != nil {
			return err
		}
		if err := i.record(indexed{Name: b.name, Raw: b.raw, File: b.file}); err != nil {
			return err
		}
		b.from = ""
	}
	return nil
}
