package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"mailferry/internal/admin"
)

func (c *cli) whoCommand() *cobra.Command {
	return &cobra.Command{Use: "who [USER]", Short: "List the clients that are connected", Args: cobra.MaximumNArgs(1),
		RunE: c.ask(func(ctx context.Context, node *admin.Client, args []string) error {
			all, err := node.Sessions(ctx)
			if err != nil {
				return err
			}
			sessions, rows := []admin.Session{}, [][]string(nil)
			for _, s := range all {
				if len(args) > 0 && !strings.EqualFold(s.User, args[0]) {
					continue
				}
				sessions = append(sessions, s)
				rows = append(rows, []string{orDash(s.User), s.Protocol, s.Client, orDash(s.Store), s.State, when(s.Since), s.ID})
			}
			return c.list(sessions, "USER\tPROTOCOL\tCLIENT\tSTORE\tSTATE\tSINCE\tID", rows)
		})}
}

func (c *cli) kickCommand() *cobra.Command {
	return &cobra.Command{Use: "kick USER", Short: "End the sessions of a user at their next quiet moment", Args: cobra.ExactArgs(1),
		RunE: c.ask(func(ctx context.Context, node *admin.Client, args []string) error {
			n, err := node.Kick(ctx, args[0])
			if err != nil {
				return err
			}
			return c.done("%d sessions of %s end", n, args[0])
		})}
}

func (c *cli) explainCommand() *cobra.Command {
	return &cobra.Command{Use: "explain USER", Short: "Show step by step how a name becomes a route", Args: cobra.ExactArgs(1),
		Example: "  mailferry explain anna@example.org",
		RunE: c.ask(func(ctx context.Context, node *admin.Client, args []string) error {
			e, err := node.Explain(ctx, args[0])
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(e)
			}
			for i, s := range e.Steps {
				fmt.Fprintf(c.stdout, "%d. %s: %s\n", i+1, s.Asked, s.Answered)
			}
			if e.Error != "" {
				return fmt.Errorf("%s has no route: %s", e.Name, e.Error)
			}
			return c.done("=> %s", e.Route)
		})}
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
