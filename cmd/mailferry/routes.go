package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"mailferry/internal/admin"
)

const explainHelp = `Looks a name up as a login does, without a password, and shows every step: what
the cache knows, by which name each directory is asked, the exact filter or
address, what was found, what decided, and the connection that a login by each
protocol would open. The last line says what a login would get if no directory
answered. Nothing is remembered of it.`

func (c *cli) explainCommand() *cobra.Command {
	return &cobra.Command{Use: "explain USER", Short: "Show step by step how a name becomes a route", Long: explainHelp, Args: cobra.ExactArgs(1),
		Example: "  mailferry explain anna@example.org",
		RunE: c.ask(func(ctx context.Context, node *admin.Client, args []string) error {
			e, err := node.Explain(ctx, args[0])
			if err != nil {
				return err
			}
			if c.json {
				err = c.printJSON(e)
			} else {
				err = c.showExplanation(&e)
			}
			if err == nil && e.Error != "" {
				err = fmt.Errorf("%s has no route: %s", e.Name, e.Error)
			}
			return err
		})}
}

func (c *cli) showExplanation(e *admin.Explanation) error {
	for i, s := range e.Steps {
		fmt.Fprintf(c.stdout, "%d. %s: %s\n", i+1, s.Asked, s.Answered)
	}
	for _, w := range e.Ways {
		parts := []string{w.Protocol + ": " + w.Address}
		if w.TLS != "" {
			parts = append(parts, "TLS "+w.TLS)
		}
		if w.Login != "" {
			parts = append(parts, "login as "+w.Login)
		}
		if w.Denied != "" {
			parts = append(parts, "refused: "+w.Denied)
		}
		fmt.Fprintf(c.stdout, "   %s\n", strings.Join(parts, ", "))
	}
	if e.Route != "" {
		fmt.Fprintf(c.stdout, "=> %s\n", e.Route)
	}
	_, err := fmt.Fprintf(c.stdout, "directory down: %s\n", e.Down)
	return err
}

const verifyRoutesHelp = `Compares the routes of users with where their mailboxes really are: each store
of the user's move group is asked by a login on the user's behalf (authzid or
master), our own by its table. All users that the directories list are looked
at, or those that are named. Verdicts:

  right      the mailbox is where the route leads
  missing    it is not, or is empty, and another store has mail
  twice      another store has mail as well, and no migration says why
  nowhere    no store has a mailbox
  unrouted   there is no store, or none that is configured
  ambiguous  the directory refuses the user
  unknown    it could not be found out

All but right are shown. Exit code 0: all are right; 3: not all; 1: it failed.`

func (c *cli) verifyRoutesCommand() *cobra.Command {
	var check admin.RouteCheck
	var file string
	var all bool
	cmd := &cobra.Command{Use: "verify-routes [USER...]", Short: "Compare all routes with where the mailboxes are", Long: verifyRoutesHelp,
		Example: `  mailferry verify-routes
  mailferry verify-routes anna@example.org --all
  mailferry verify-routes --where '(mailHost=old1)' --parallel 16 --json`,
		RunE: c.ask(func(ctx context.Context, node *admin.Client, args []string) error {
			check.Users = args
			if file != "" {
				f, err := os.Open(file)
				if err != nil {
					return err
				}
				defer f.Close()
				listed, _, err := readUsers(f)
				if err != nil {
					return fmt.Errorf("%s: %w", file, err)
				}
				check.Users = append(check.Users, listed...)
				if len(check.Users) == 0 {
					return usagef("%s names no users", file)
				}
			}
			if len(check.Users) > 0 && check.Where != "" {
				return usagef("--where does not go with names of users")
			}
			return c.verifyRoutes(ctx, node, check, all)
		})}
	cmd.Flags().StringVar(&file, "users", "", "look at the users in this CSV `file`")
	cmd.Flags().StringVar(&check.Where, "where", "", "look at the users that this directory `filter` finds")
	cmd.Flags().IntVar(&check.Parallel, "parallel", 8, "users to look at side by side, at most 64")
	cmd.Flags().BoolVar(&all, "all", false, "show the routes that are right as well")
	return cmd
}

// verifyRoutes prints a verdict a line, then how many there were of each.
func (c *cli) verifyRoutes(ctx context.Context, node *admin.Client, check admin.RouteCheck, all bool) error {
	counts, total := map[string]int{}, 0
	shown := []admin.RouteVerdict{}
	err := node.VerifyRoutes(ctx, check, func(v admin.RouteVerdict) error {
		counts[v.Verdict]++
		total++
		switch {
		case v.Verdict == admin.VerdictRight && !all:
		case c.json:
			shown = append(shown, v)
		default:
			return c.showVerdict(&v)
		}
		if !c.json && total%10_000 == 0 {
			fmt.Fprintf(c.stderr, "%d routes compared\n", total)
		}
		return nil
	})
	if err != nil {
		return err
	}
	wrong := total - counts[admin.VerdictRight]
	if c.json {
		err = c.printJSON(shown)
	} else {
		err = c.done("%d routes compared, %d right%s", total, counts[admin.VerdictRight], otherCounts(counts))
	}
	if err == nil && wrong > 0 {
		err = fmt.Errorf("%w: %d of %d routes are not right", errPartial, wrong, total)
		if c.json {
			err = errPartialSaid
		}
	}
	return err
}

func (c *cli) showVerdict(v *admin.RouteVerdict) error {
	line := fmt.Sprintf("%s: %s", v.User, v.Verdict)
	if v.Store != "" {
		line += " at " + v.Store
	}
	if v.Text != "" {
		line += ": " + v.Text
	}
	_, err := io.WriteString(c.stdout, line+"\n")
	return err
}

func otherCounts(counts map[string]int) string {
	text := ""
	for _, v := range []string{admin.VerdictMissing, admin.VerdictTwice, admin.VerdictNowhere, admin.VerdictUnrouted,
		admin.VerdictAmbiguous, admin.VerdictUnknown} {
		if counts[v] > 0 {
			text += fmt.Sprintf(", %d %s", counts[v], v)
		}
	}
	return text
}
