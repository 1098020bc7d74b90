package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mailferry/internal/admin"
)

// sessionFlags select sessions.
func sessionFlags(cmd *cobra.Command, f *admin.SessionFilter) {
	cmd.Flags().StringVar(&f.Client, "client", "", "of this `address` or network (192.0.2.0/24)")
	cmd.Flags().StringVar(&f.Session, "session", "", "the one with this `id`, as who and logs show it")
	cmd.Flags().StringVar(&f.Store, "store", "", "at this `store`")
	cmd.Flags().StringVar(&f.Protocol, "protocol", "", "imap, pop3, managesieve or lmtp")
}

func (c *cli) whoCommand() *cobra.Command {
	var f admin.SessionFilter
	cmd := &cobra.Command{Use: "who [USER]", Short: "List the clients that are connected", Args: cobra.MaximumNArgs(1),
		Example: `  mailferry who anna@example.org
  mailferry who --store old1 --protocol imap
  mailferry who --client 192.0.2.0/24 --json`,
		RunE: c.ask(func(ctx context.Context, node *admin.Client, args []string) error {
			if len(args) > 0 {
				f.User = args[0]
			}
			all, err := node.Sessions(ctx, f)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, s := range all {
				rows = append(rows, []string{orDash(s.User), s.Protocol, s.Client, orDash(s.TLS), orDash(s.Store), s.State,
					when(s.Since), time.Since(s.Active).Round(time.Second).String(), s.ID})
			}
			return c.list(all, "USER\tPROTOCOL\tCLIENT\tTLS\tSTORE\tSTATE\tSINCE\tSILENT\tID", rows)
		})}
	sessionFlags(cmd, &f)
	return cmd
}

func (c *cli) kickCommand() *cobra.Command {
	var f admin.SessionFilter
	cmd := &cobra.Command{Use: "kick [USER]", Short: "End sessions, each between two commands", Args: cobra.MaximumNArgs(1),
		Long: `Ends the sessions of a user, or those that the flags mean: each is told goodbye
when its present command is answered, after 30 s in any case. The command does
not wait for that.`,
		Example: `  mailferry kick anna@example.org
  mailferry kick --client 192.0.2.7
  mailferry kick --session 5b1e0c7a9d42`,
		RunE: c.ask(func(ctx context.Context, node *admin.Client, args []string) error {
			if len(args) > 0 {
				f.User = args[0]
			}
			if f == (admin.SessionFilter{}) {
				return usagef("say whose sessions are to end: USER, --client, --session, --store or --protocol")
			}
			n, err := node.Kick(ctx, f)
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(admin.Kicked{Sessions: n})
			}
			return c.done("%d sessions end", n)
		})}
	sessionFlags(cmd, &f)
	return cmd
}

func (c *cli) placementsCommand() *cobra.Command {
	return &cobra.Command{Use: "placements", Short: "List the routes that migrations have decided", Args: cobra.NoArgs,
		RunE: c.ask(func(ctx context.Context, node *admin.Client, _ []string) error {
			all, err := node.Placements(ctx)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, p := range all {
				rows = append(rows, []string{p.User, p.State.String(), p.Store, orDash(p.Target), fmt.Sprint(p.Epoch), when(p.Since), orDash(p.Move)})
			}
			return c.list(all, "USER\tSTATE\tSTORE\tTARGET\tEPOCH\tSINCE\tMOVE", rows)
		})}
}

func (c *cli) healthCommand() *cobra.Command {
	return &cobra.Command{Use: "health", Short: "Show how the node is; exit code 1 when something is wrong", Args: cobra.NoArgs,
		RunE: c.ask(func(ctx context.Context, node *admin.Client, _ []string) error {
			h, err := node.Health(ctx)
			if err != nil {
				return err
			}
			if c.json {
				err = c.printJSON(h)
			} else {
				err = c.done("%s, version %s, since %s, roles %s", h.Node, h.Version, when(h.Since), strings.Join(h.Roles, " "))
			}
			if err == nil && len(h.Problems) > 0 {
				err = fmt.Errorf("not healthy: %s", strings.Join(h.Problems, "; "))
			}
			return err
		})}
}
