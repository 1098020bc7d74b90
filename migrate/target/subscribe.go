package target

import (
	"context"
	"fmt"
	"slices"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// Subscriptions implements backend.Import. It takes back only what a copy has
// subscribed, of mailboxes that the source still has: what the target's user
// subscribed stays, and so does the subscription of a mailbox that is left there.
func (i *account) Subscriptions(ctx context.Context, names []backend.MailboxName) error {
	if i.o.Rules.NoSubscribe {
		return nil
	}
	have, wanted := make(map[string]bool), make(map[string]bool)
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
		for _, b := range i.mailboxes() {
			if i.ours[b.raw] && !wanted[b.raw] && i.prepared[b.name] && b.failed == nil {
				remove = append(remove, b.raw)
			}
		}
	}
	return i.changeSubscriptions(ctx, add, remove)
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

// unsubscribe takes the subscription of a name back that is gone; callers hold mu.
func (i *account) unsubscribe(ctx context.Context, raw string) error {
	if i.o.Rules.NoSubscribe || i.o.Exact != nil {
		return nil
	}
	if err := i.do(ctx, func(c *remote.Client) error {
		_, err := c.Subscribe(ctx, nil, []string{raw}) // it may not have been there
		return err
	}); err != nil {
		return err
	}
	return i.subscribed(raw, false)
}
