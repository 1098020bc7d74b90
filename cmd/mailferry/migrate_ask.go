package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"mailferry/internal/admin"
)

func (c *cli) migrateStatusCommand() *cobra.Command {
	return &cobra.Command{Use: "status", Short: "List batches and how far they are", Args: cobra.NoArgs,
		RunE: c.ask(func(ctx context.Context, node *admin.Client, _ []string) error {
			batches, err := node.Migrations().Batches(ctx)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, b := range batches {
				rows = append(rows, []string{b.ID, orDash(b.From), b.To, fmt.Sprint(len(b.Moves)),
					fmt.Sprint(b.Moved()), fmt.Sprint(b.Failed()), batchState(&b)})
			}
			return c.list(batches, "BATCH\tFROM\tTO\tUSERS\tMOVED\tFAILED\tSTATE", rows)
		})}
}

func batchState(b *admin.Batch) string {
	switch {
	case b.Done:
		return "done"
	case b.Paused:
		return "paused"
	}
	return "running"
}

func (c *cli) migrateShowCommand() *cobra.Command {
	return &cobra.Command{Use: "show [BATCH]", Short: "Show each user's move of a batch (default: the latest)", Args: cobra.MaximumNArgs(1),
		RunE: c.ask(func(ctx context.Context, node *admin.Client, args []string) error {
			b, err := node.Migrations().Batch(ctx, first(args))
			if err != nil {
				return err
			}
			return c.list(b, "USER\tSTATE\tMESSAGES\tSIZE\tRATE\tTIME\tREASON", moveRows(&b))
		})}
}

func moveRows(b *admin.Batch) [][]string {
	var rows [][]string
	for _, m := range b.Moves {
		rows = append(rows, []string{m.User, m.State, fmt.Sprintf("%d/%d", m.MessagesDone, m.Messages), bytesText(m.BytesDone),
			rateText(m.Rate), m.Elapsed.Round(time.Millisecond).String(), orDash(m.Reason)})
	}
	return rows
}

func rateText(bytesPerSecond float64) string {
	if bytesPerSecond == 0 {
		return "-"
	}
	return bytesText(int64(bytesPerSecond)) + "/s"
}

func (c *cli) migrateWatchCommand() *cobra.Command {
	return &cobra.Command{Use: "watch [BATCH]", Short: "Follow a batch until it is done (default: the latest)", Args: cobra.MaximumNArgs(1),
		RunE: c.ask(func(ctx context.Context, node *admin.Client, args []string) error {
			return c.follow(ctx, node, first(args))
		})}
}

func (c *cli) migrateTellCommand(name, short string, tell func(*admin.MigrationClient, context.Context, string) error) *cobra.Command {
	return &cobra.Command{Use: name + " [BATCH]", Short: short + " (default: the latest)", Args: cobra.MaximumNArgs(1),
		RunE: c.ask(func(ctx context.Context, node *admin.Client, args []string) error {
			return tell(node.Migrations(), ctx, first(args))
		})}
}

func (c *cli) migrateRetryCommand() *cobra.Command {
	var detach bool
	cmd := &cobra.Command{Use: "retry [BATCH]", Short: "Begin the failed moves of a batch anew (default: the latest)",
		Args: cobra.MaximumNArgs(1),
		RunE: c.ask(func(ctx context.Context, node *admin.Client, args []string) error {
			b, err := node.Migrations().Retry(ctx, first(args))
			if err != nil {
				return err
			}
			if detach {
				return c.done("%s", b.ID)
			}
			return c.follow(ctx, node, b.ID)
		})}
	cmd.Flags().BoolVar(&detach, "detach", false, "print the new batch's id and return")
	return cmd
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}
