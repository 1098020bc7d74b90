package target

import (
	"context"
	"fmt"
	"slices"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// Subscriptions implements backend.Import. It takes back only what a copy has
// subscribed or deleted: what the target's user subscribed stays, and so does the
// subscription of a mailbox that is left at the target.
func (i *account) Subscriptions(ctx context.Context, names []backend.MailboxName) error {
	if i.o.Rules.NoSubscribe {
		return nil
	}
	have, wanted, kept := make(map[string]bool), make(map[string]bool), make(map[string]bool)
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.list != nil {
		for _, e := range i.list.Subscriptions {
			have[e.Raw] = true
		}
	}
	for _, name := range names {
		if b := i.box(name); b != nil && b.failed == nil {
			wanted[b.raw] = true
		} else if i.o.Exact != nil { // of a mailbox that is gone
			wanted[remote.EncodeName(i.source.Show(name))] = true
		} else if b == nil && i.list != nil {
			kept[i.nameOfGone(name)] = true
		}
	}
	if i.o.Rules.SubscribeAll {
		for _, b := range i.mailboxes() {
			wanted[b.raw] = true
		}
	}
	var add, remove []string
	for raw := range wanted {
		if !have[raw] {
			add = append(add, raw)
		}
	}
	switch {
	case i.list == nil:
	case i.o.Exact != nil:
		remove = i.unsubscribed(names)
	default:
		for _, raw := range i.givenUp(func(raw string) bool { return wanted[raw] || kept[raw] }) {
			if have[raw] {
				remove = append(remove, raw)
			} else if err := i.subscribed(raw, false); err != nil { // its user was faster
				return err
			}
		}
	}
	return i.changeSubscriptions(ctx, add, remove)
}

// givenUp are subscriptions that a copy made and the source has no more, and
// those of mailboxes that a copy took away; callers hold mu.
func (i *account) givenUp(wanted func(raw string) bool) (remove []string) {
	boxes := make(map[string]*mailbox)
	for _, b := range i.mailboxes() {
		boxes[b.raw] = b
	}
	there := make(map[string]bool, len(i.list.Mailboxes))
	for k := range i.list.Mailboxes {
		there[i.list.Mailboxes[k].Raw] = true
	}
	for raw := range i.ours {
		b := boxes[raw]
		has := b != nil && i.prepared[b.name] && b.failed == nil
		if has && !wanted(raw) {
			remove = append(remove, raw)
		}
		if b == nil && !there[raw] { // an earlier run that was killed took it away
			i.orphaned(raw)
		}
	}
	for raw := range i.orphans {
		if !wanted(raw) && !there[raw] {
			remove = append(remove, raw)
		}
	}
	clear(i.orphans)
	return remove
}

// changeSubscriptions notes what a copy has subscribed after the target did it:
// a subscription that is not noted stays, one noted too soon could be taken from
// its user. Callers hold mu.
func (i *account) changeSubscriptions(ctx context.Context, add, remove []string) error {
	slices.Sort(add)
	slices.Sort(remove)
	remove = slices.Compact(remove)
	if len(add)+len(remove) == 0 {
		return nil
	}
	var errs []error
	if err := i.do(ctx, func(c *remote.Client) (err error) {
		errs, err = c.Subscribe(ctx, add, remove)
		return err
	}); err != nil {
		return err
	}
	all := slices.Concat(add, remove)
	for k, err := range errs {
		raw := all[k]
		if err != nil {
			i.note(backend.ImportNote{What: fmt.Sprintf("subscription to %q: %v", raw, err)})
			continue
		}
		if err := i.subscribed(raw, k < len(add)); err != nil {
			return err
		}
	}
	if i.o.Exact != nil {
		return nil
	}
	return i.index.Sync()
}

// subscribed keeps what the target has subscribed up to date; callers hold mu.
func (i *account) subscribed(raw string, on bool) error {
	if i.list != nil {
		i.list.Subscriptions = slices.DeleteFunc(i.list.Subscriptions, func(e remote.ListEntry) bool { return e.Raw == raw })
		if on {
			name, _ := remote.DecodeName(raw)
			i.list.Subscriptions = append(i.list.Subscriptions, remote.ListEntry{Raw: raw, Name: name})
		}
	}
	if i.o.Exact != nil || i.ours[raw] == on {
		return nil
	}
	i.state.Lock()
	defer i.state.Unlock()
	if err := i.write(indexed{Raw: raw, Subscribed: true, Gone: !on}); err != nil {
		return err
	}
	if i.ours[raw] = true; !on {
		delete(i.ours, raw)
	}
	return nil
}

// orphaned notes that a copy took a mailbox away, or gave it another name: its
// subscription goes, unless the source's user still has it. Callers hold mu.
func (i *account) orphaned(raw string) {
	if i.list == nil {
		return
	}
	i.list.Mailboxes = slices.DeleteFunc(i.list.Mailboxes, func(e remote.ListEntry) bool { return e.Raw == raw })
	if i.orphans == nil {
		i.orphans = make(map[string]bool)
	}
	i.orphans[raw] = true
}

// nameOfGone is what the target would call a mailbox that the source's user is
// subscribed to and has not; callers hold mu.
func (i *account) nameOfGone(name backend.MailboxName) string {
	n, err := newNamer(i.o.Rules, i.source, personal(i.list))
	if err != nil {
		return ""
	}
	shown, _, _ := n.name(&backend.ImportMailbox{Name: name})
	return remote.EncodeName(shown)
}
