package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"mailferry/internal/admin"
)

func (c *cli) userCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "user", Short: "Manage users of our own table"}
	list := &cobra.Command{Use: "list", Short: "List users", Args: cobra.NoArgs,
		RunE: c.ask(func(ctx context.Context, node *admin.Client, _ []string) error {
			users, err := node.ListUsers(ctx)
			if err != nil {
				return err
			}
			return c.listUsers(users, users)
		})}
	show := &cobra.Command{Use: "show USER", Short: "Show a user; --json also what belongs to them beside mail", Args: cobra.ExactArgs(1),
		RunE: c.ask(func(ctx context.Context, node *admin.Client, args []string) error {
			u, err := node.User(ctx, args[0])
			if err != nil {
				return err
			}
			return c.listUsers(u, []admin.User{u})
		})}
	cmd.AddCommand(c.userAddCommand(), list, show, c.userPasswdCommand(), c.userDisableCommand("disable", true),
		c.userDisableCommand("enable", false), c.userDeleteCommand())
	return cmd
}

func (c *cli) listUsers(v any, users []admin.User) error {
	var rows [][]string
	for _, u := range users {
		rows = append(rows, []string{u.Name, u.State, yes(u.Admin), yes(u.Disabled), yes(u.Password),
			orDash(strings.Join(u.Aliases, " "))})
	}
	return c.list(v, "USER\tSTATE\tADMIN\tDISABLED\tPASSWORD\tALIASES", rows)
}

func (c *cli) userAddCommand() *cobra.Command {
	var u admin.NewUser
	var from passwordFlags
	cmd := &cobra.Command{
		Use: "add USER", Short: "Add a user with the usual mailboxes", Args: cobra.ExactArgs(1),
		Example: `  mailferry user add anna@example.org
  pwgen 20 1 | mailferry user add anna@example.org --password-stdin --alias postmaster@example.org`,
		RunE: c.ask(func(ctx context.Context, node *admin.Client, args []string) error {
			u.Name = args[0]
			password, err := c.password(from, u.Name)
			if err != nil {
				return err
			}
			u.Password = password.Reveal()
			if _, err := node.AddUser(ctx, u); err != nil {
				return err
			}
			return c.done("added %s", u.Name)
		}),
	}
	from.register(cmd)
	cmd.Flags().BoolVar(&from.none, "no-password", false, "the user cannot log in with a password of ours")
	cmd.Flags().BoolVar(&u.Admin, "as-admin", false, "the user may administrate this node")
	cmd.Flags().StringArrayVar(&u.Aliases, "alias", nil, "further `address` of the user (may be repeated)")
	return cmd
}

func (c *cli) userPasswdCommand() *cobra.Command {
	var from passwordFlags
	cmd := &cobra.Command{Use: "passwd USER", Short: "Change a user's password", Args: cobra.ExactArgs(1),
		RunE: c.ask(func(ctx context.Context, node *admin.Client, args []string) error {
			password, err := c.password(from, args[0])
			if err != nil {
				return err
			}
			if err := node.SetPassword(ctx, args[0], password); err != nil {
				return err
			}
			return c.done("changed the password of %s", args[0])
		})}
	from.register(cmd)
	return cmd
}

func (c *cli) userDisableCommand(name string, disabled bool) *cobra.Command {
	short := "Let a disabled user log in and get mail again"
	if disabled {
		short = "Let a user not log in any more and get no mail; what is there stays"
	}
	return &cobra.Command{Use: name + " USER", Short: short, Args: cobra.ExactArgs(1),
		RunE: c.ask(func(ctx context.Context, node *admin.Client, args []string) error {
			if err := node.SetDisabled(ctx, args[0], disabled); err != nil {
				return err
			}
			return c.done("%sd %s", name, args[0])
		})}
}

func (c *cli) userDeleteCommand() *cobra.Command {
	var sure bool
	cmd := &cobra.Command{Use: "delete USER --yes", Short: "Delete a user and all mail in our store", Args: cobra.ExactArgs(1),
		RunE: c.ask(func(ctx context.Context, node *admin.Client, args []string) error {
			if !sure {
				return usageError{admin.WithHint(usagef("all mail of %s would be gone", args[0]), "say --yes if that is meant")}
			}
			if err := node.DeleteUser(ctx, args[0]); err != nil {
				return err
			}
			return c.done("deleted %s", args[0])
		})}
	cmd.Flags().BoolVar(&sure, "yes", false, "really")
	return cmd
}
