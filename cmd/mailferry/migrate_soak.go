package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mailferry/internal/admin"
)

const rollbackHelp = `Brings users back to their old store while they are logged in. The old store has
followed the new one since the flip; the user is put on hold for a moment, the
last changes are carried over, both stores are compared, and the user is flipped
back. Anything that goes wrong before leaves the user on the new store, soaking.

It is possible while a move is soaking (mailferry migrate --soak, and migrate.soak
of the configuration). Afterwards mailferry migrate retry moves the users again.`

const finaliseHelp = `Ends the soak of users before its time: the old store is followed no longer, and
there is no way back but another move. The certificate has to be clean, and the
directory has to name the new store. The copy at the old store stays; nothing
here ever deletes it.`

func (c *cli) migrateRollbackCommand() *cobra.Command {
	return c.soakCommand("rollback", "Bring soaking users back to their old store", rollbackHelp, "rolled back",
		func(ctx context.Context, m *admin.MigrationClient, o admin.SoakOrder) (admin.SoakOrder, error) {
			return m.Rollback(ctx, o)
		})
}

func (c *cli) migrateFinaliseCommand() *cobra.Command {
	return c.soakCommand("finalise", "End the soak of users who stay at their new store", finaliseHelp, "final",
		func(ctx context.Context, m *admin.MigrationClient, o admin.SoakOrder) (admin.SoakOrder, error) {
			return m.Finalise(ctx, o)
		})
}

// soakCommand gives an order to soaking users and waits until it is carried out
// for all: they are in the state want then, or the reason is told.
func (c *cli) soakCommand(name, short, help, want string,
	order func(context.Context, *admin.MigrationClient, admin.SoakOrder) (admin.SoakOrder, error)) *cobra.Command {
	var o admin.SoakOrder
	var detach bool
	cmd := &cobra.Command{Use: name + " USER... | --batch ID", Short: short, Long: help,
		Example: fmt.Sprintf("  mailferry migrate %s anna@example.org\n  mailferry migrate %[1]s --batch 20261127-220000.000000", name),
		RunE: c.ask(func(ctx context.Context, node *admin.Client, args []string) error {
			if o.Users = args; len(args) == 0 && o.Batch == "" {
				return usageError{admin.WithHint(errors.New("name users, or --batch ID"), "batches are listed by: mailferry migrate status")}
			}
			done, err := order(ctx, node.Migrations(), o)
			if err != nil {
				return err
			}
			if detach {
				return c.done("%s: %d users", done.Batch, len(done.Users))
			}
			return c.awaitSoak(ctx, node, done, want)
		})}
	cmd.Flags().StringVar(&o.Batch, "batch", "", "all users of this batch who are soaking, or the batch of those named")
	cmd.Flags().BoolVar(&detach, "detach", false, "give the order and return")
	return cmd
}

// awaitSoak waits until no user has an order any more, and tells each outcome.
func (c *cli) awaitSoak(ctx context.Context, node *admin.Client, o admin.SoakOrder, want string) error {
	open := make(map[string]bool, len(o.Users))
	for _, u := range o.Users {
		open[u] = true
	}
	failed := 0
	for tick := time.NewTicker(200 * time.Millisecond); len(open) > 0; {
		for m, err := range node.Migrations().AllMoves(ctx, admin.MoveQuery{Batch: o.Batch}) {
			switch {
			case err != nil:
				return err
			case !open[m.User] || m.Ordered:
				continue
			}
			delete(open, m.User)
			if m.State == want {
				if err := c.done("%s: %s", m.User, m.State); err != nil {
					return err
				}
				continue
			}
			failed++
			if err := c.done("%s: %s, %s", m.User, m.State, strings.TrimSpace(m.Reason)); err != nil {
				return err
			}
		}
		if len(open) == 0 {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	switch n := len(o.Users); {
	case failed == 0:
		return nil
	case failed < n:
		return fmt.Errorf("%w: %d of %d users are not %s", errPartial, failed, n, want)
	default:
		return fmt.Errorf("%d of %d users are not %s", failed, n, want)
	}
}
