package migrate

import (
	"context"
	"fmt"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// foreignIDs compares what POP3 shows of a user on both sides. Unique ids and
// order cannot be set over IMAP: what differs is counted, so that everybody knows
// whose clients will fetch mail again.
func (a *account) foreignIDs(ctx context.Context, at inboxState) error {
	d := a.pop3
	old, err := d.maildropOf(ctx, d.dial)
	if why := d.unavailable(err); why != "" {
		d.leave(why, at)
		return nil
	}
	if err != nil {
		return fmt.Errorf("POP3 of %s: %w", a.user, err)
	}
	if old.NoUIDL || old.Len() == 0 {
		d.leave("the old store shows no unique ids", at)
		return nil
	}
	shown, err := d.maildropOf(ctx, d.dialNew)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil || shown.NoUIDL {
		if err == nil {
			err = fmt.Errorf("it does not know UIDL")
		}
		d.leave(fmt.Sprintf("%d unique ids of the old store cannot be set over IMAP, and the new store's were not compared: %v", old.Len(), err), at)
		d.foreignLeft = true
		return nil
	}
	d.leave("", at)
	d.cert = POP3Certificate{Messages: old.Len(), Compared: true, Differ: differingIDs(old, shown)}
	return nil
}

// maildropOf lists a maildrop by a connection of its own.
func (d *maildrop) maildropOf(ctx context.Context, dial func(context.Context) (*remote.POP3Client, error)) (*remote.Maildrop, error) {
	one := *d
	one.dial = dial
	c, err := one.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close(ctx)
	return c.Maildrop(ctx)
}

// differingIDs counts the entries of old that shown does not have as well, in the
// same order. New ones of shown between and behind them count for nothing.
func differingIDs(old, shown *remote.Maildrop) (differ int) {
	at := make(map[string]int, shown.Len())
	for i := range shown.Len() {
		at[shown.UIDL(i)] = i + 1
	}
	last := 0
	for i := range old.Len() {
		if n := at[old.UIDL(i)]; n > last {
			last = n
		} else {
			differ++
		}
	}
	return differ
}

// dialForeignPOP3 logs in to the POP3 of a foreign store as the new one.
func (d *driver) dialForeignPOP3(ctx context.Context, to *backend.Store) (*remote.POP3Client, error) {
	pl, err := d.e.hosts.place(ctx, d.e.hosts.of(to, ""), &d.guest)
	if err != nil {
		return nil, err
	}
	t := d.targetAt(to, "")
	t.Dial = pl.dial
	c, err := remote.DialPOP3(ctx, t)
	if err != nil {
		pl.leave()
		return nil, err
	}
	return remote.NewPOP3Client(c), nil
}
