package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"mailferry/internal/admin"
)

func (c *cli) migrateStatusCommand() *cobra.Command {
	return &cobra.Command{Use: "status [BATCH]", Short: "List batches and how far they are, or say how far one is", Args: cobra.MaximumNArgs(1),
		RunE: c.ask(func(ctx context.Context, node *admin.Client, args []string) error {
			if len(args) > 0 {
				return c.batchStatus(ctx, node, args[0])
			}
			batches, err := node.Migrations().Batches(ctx)
			if err != nil {
				return err
			}
			var rows [][]string
			for i := range batches {
				b := &batches[i]
				left := "-"
				if b.Left > 0 && !b.Done && !b.Paused {
					left = leftText(b.Left)
				}
				rows = append(rows, []string{b.ID, orDash(b.From), orDash(b.To), fmt.Sprint(b.Users), fmt.Sprint(b.Moved), fmt.Sprint(b.Failed),
					fmt.Sprintf("%.0f%%", 100*b.Share), left, batchState(b) + behindFlips(b)})
			}
			return c.list(batches, "BATCH\tFROM\tTO\tUSERS\tMOVED\tFAILED\tDONE\tLEFT\tSTATE", rows)
		})}
}

// batchStatus prints what is known of one batch, its users by state.
func (c *cli) batchStatus(ctx context.Context, node *admin.Client, id string) error {
	b, err := node.Migrations().Batch(ctx, id)
	if err != nil || c.json {
		return errors.Join(err, c.printUnless(err, b))
	}
	rows := [][]string{{"state", batchState(&b) + behindFlips(&b)}, {"work", paceText(&b)}}
	if b.Waves > 1 {
		rows = append(rows, []string{"wave", fmt.Sprintf("%d of %d", b.Wave, b.Waves)})
	}
	rows = append(rows, []string{"users", fmt.Sprintf("%d, of them at work %d", b.Users, b.Running)})
	for _, s := range slices.Sorted(maps.Keys(b.States)) {
		rows = append(rows, []string{"  " + s, fmt.Sprint(b.States[s])})
	}
	if b.Passwords && b.Done {
		rows = append(rows, []string{"passwords", "kept for users who may need another move; to forget them: mailferry migrate stop " + b.ID})
	}
	return c.list(nil, "batch\t"+b.ID, rows)
}

// printUnless prints v as JSON when there was no error.
func (c *cli) printUnless(err error, v any) error {
	if err != nil {
		return nil
	}
	return c.printJSON(v)
}

func batchState(b *admin.Batch) string {
	state := "running"
	switch {
	case b.Stopped:
		return "stopped"
	case b.Done:
		return "done"
	case b.Paused:
		if state = "paused"; b.Running > 0 {
			state = fmt.Sprintf("pausing, still at work: %d", b.Running)
		}
	case b.Waits != "":
		state = "waits"
	}
	if b.Waits != "" {
		state += ": " + b.Waits
	}
	return state
}

// behindFlips tells of users whom a batch that is done does not mean to leave so.
func behindFlips(b *admin.Batch) string {
	text := ""
	for _, s := range []string{"soaking", "rolled back"} {
		if n := b.States[s]; n > 0 {
			text += fmt.Sprintf(", %d %s", n, s)
		}
	}
	return text
}

func (c *cli) migrateShowCommand() *cobra.Command {
	q := admin.MoveQuery{}
	cmd := &cobra.Command{Use: "show [BATCH]", Short: "Show each user's move of a batch (default: the latest)", Args: cobra.MaximumNArgs(1),
		Example: `  mailferry migrate show --failed
  mailferry migrate show 20261127-220000.000000 --state copying,following`,
		RunE: c.ask(func(ctx context.Context, node *admin.Client, args []string) error {
			q.Batch = first(args)
			b, err := node.Migrations().Batch(ctx, q.Batch)
			if err != nil {
				return err
			}
			q.Batch = b.ID // the latest may be another one by now
			var rows [][]string
			for m, err := range node.Migrations().AllMoves(ctx, q) {
				if err != nil {
					return err
				}
				if b.Moves = append(b.Moves, m); !c.json {
					b.Moves = b.Moves[:0]
					rows = append(rows, moveRow(&m))
				}
			}
			return c.list(b, "USER\tSTATE\tMESSAGES\tSIZE\tRATE\tTIME\tREASON", rows)
		})}
	cmd.Flags().BoolVar(&q.Failed, "failed", false, "only users whose move failed")
	cmd.Flags().StringSliceVar(&q.States, "state", nil, "only users in these `states`")
	return cmd
}

func moveRow(m *admin.Move) []string {
	return []string{m.User, m.State, fmt.Sprintf("%d/%d", m.MessagesDone, m.Messages), bytesText(m.BytesDone),
		rateText(m.Rate), m.Elapsed.Round(time.Millisecond).String(), orDash(moveReason(m))}
}

// moveReason is also how long a soak lasts.
func moveReason(m *admin.Move) string {
	if m.SoakUntil.IsZero() {
		return m.Reason
	}
	until := "until " + m.SoakUntil.Local().Format("2006-01-02 15:04")
	if m.Reason != "" {
		return until + "; " + m.Reason
	}
	return until
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
	cmd := &cobra.Command{Use: "retry [BATCH]", Short: "Begin the moves of a batch anew that failed or were rolled back (default: the latest)",
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
