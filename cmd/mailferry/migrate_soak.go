package main

import (
	"context"
	"encoding/json"
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
of the configuration). Clients that have a mailbox open are told BYE and log in
again: the old store cannot take a session over. What could not be brought back
as it was is in mailferry migrate report USER. Afterwards mailferry migrate retry
moves the users again.`

const finaliseHelp = `Ends the soak of users before its time: the old store is followed no longer, and
there is no way back but another move. The certificate has to be clean, and the
directory has to name the new store. The copy at the old store stays; nothing
here ever deletes it.`

func (c *cli) migrateRollbackCommand() *cobra.Command {
	return c.soakCommand("rollback", "Bring soaking users back to their old store", rollbackHelp, stateRolledBack,
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
	failed := 0
	err := node.Migrations().AwaitOrders(ctx, o, func(m admin.Move) error {
		text := orReason(m.State, m.Reason)
		switch {
		case m.State != want:
			failed++
		case want == stateRolledBack && m.Reason == "" && len(o.Users) <= maxTold:
			text += c.wayBack(ctx, node, m.User)
		}
		return c.done("%s: %s", m.User, text)
	})
	if err != nil && ctx.Err() != nil {
		return admin.WithHint(err, "the node goes on; see: mailferry migrate show "+o.Batch)
	}
	if err != nil {
		return err
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

func orReason(state, reason string) string {
	if reason = strings.TrimSpace(reason); reason != "" {
		return state + ", " + reason
	}
	return state
}

const (
	stateRolledBack = "rolled back"
	// maxTold bounds the orders that tell more of each user than the state.
	maxTold = 100
)

// wayBack is what a roll-back meant to a user, as the report has it.
func (c *cli) wayBack(ctx context.Context, node *admin.Client, user string) string {
	text, err := node.Migrations().Report(ctx, user)
	var r struct {
		Soak struct {
			Exceptions []json.RawMessage
			Back       *struct {
				Hold             time.Duration
				Attached, Closed int
			}
		}
	}
	if err != nil || json.Unmarshal(text, &r) != nil || r.Soak.Back == nil {
		return ""
	}
	b := r.Soak.Back
	out := fmt.Sprintf(", on hold for %v, %d sessions went on, %d closed", b.Hold.Round(time.Millisecond), b.Attached, b.Closed)
	switch n := len(r.Soak.Exceptions); {
	case n == 1:
		out += ", 1 thing could not be brought back as it was: mailferry migrate report " + user
	case n > 1:
		out += fmt.Sprintf(", %d things could not be brought back as they were: mailferry migrate report %s", n, user)
	}
	return out
}
