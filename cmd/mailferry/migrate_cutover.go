package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"mailferry/internal/admin"
)

const cutoverHelp = `Orders the flip of users who are copied.

In a batch that was started with --flip-on-order they are followed until then, and
flipped as soon as they are ready and the window for flips is open. Users of a
batch that was started with --copy-only become a batch of their own, which fetches
what is new only, and then moves them.`

func (c *cli) migrateCutoverCommand() *cobra.Command {
	var o admin.SoakOrder
	cmd := &cobra.Command{Use: "cutover USER... | --batch ID", Short: "Flip users who are copied", Long: cutoverHelp,
		Example: "  mailferry migrate cutover anna@example.org\n  mailferry migrate cutover --batch 20261127-220000.000000",
		RunE: c.ask(func(ctx context.Context, node *admin.Client, args []string) error {
			if o.Users = args; len(args) == 0 && o.Batch == "" {
				return usageError{admin.WithHint(errors.New("name users, or --batch ID"), "batches are listed by: mailferry migrate status")}
			}
			done, err := node.Migrations().Cutover(ctx, o)
			if err != nil {
				return err
			}
			return c.done("%s: %d users are flipped when they are ready; see: mailferry migrate watch %[1]s", done.Batch, len(done.Users))
		})}
	cmd.Flags().StringVar(&o.Batch, "batch", "", "all users of this batch who are copied, or the batch of those named")
	return cmd
}
