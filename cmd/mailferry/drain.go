package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mailferry/backend"
	"mailferry/internal/admin"
)

const drainHelp = `Empties a store, or with --node the whole node: nobody new is let in (logins
and deliveries are told to try again), and the sessions that are there are ended
at a polite rate, each between two commands, with the goodbye of its protocol;
clients in the middle of a command come last. A drained node fails its health
check, so that a balancer sends clients elsewhere.

The command shows the progress and ends when everybody has left, with code 0;
the drain goes on until "mailferry drain stop", or a restart of the node.
Interrupting the command does not stop the drain. Again, with another --rate, it
goes on at that rate.`

// drainPoll is how often progress is asked for.
const drainPoll = time.Second

func (c *cli) drainCommand() *cobra.Command {
	var node, detach bool
	var rate string
	cmd := &cobra.Command{
		Use: "drain [STORE]", Short: "Empty a store or the node at a polite rate", Long: drainHelp, Args: cobra.MaximumNArgs(1),
		Example: `  mailferry drain old1 --rate 50/s
  mailferry drain --node
  mailferry drain status
  mailferry drain stop old1`,
		RunE: c.ask(func(ctx context.Context, n *admin.Client, args []string) error {
			store, err := drained(args, node)
			if err != nil {
				return err
			}
			perSecond, err := parseRate(rate)
			if err != nil {
				return err
			}
			if err := n.Drain(ctx, store, perSecond); err != nil {
				return err
			}
			if detach {
				return c.done("drain of %s has begun; see: mailferry drain status", drainName(store))
			}
			return c.followDrain(ctx, n, store)
		}),
	}
	cmd.Flags().BoolVar(&node, "node", false, "empty the whole node")
	cmd.Flags().StringVar(&rate, "rate", "20/s", "sessions to end: `N/s` or N/m")
	cmd.Flags().BoolVar(&detach, "detach", false, "do not wait until everybody has left")
	cmd.AddCommand(c.drainStatusCommand(), c.drainStopCommand())
	return cmd
}

func (c *cli) drainStatusCommand() *cobra.Command {
	return &cobra.Command{Use: "status", Short: "Show the drains that run", Args: cobra.NoArgs,
		RunE: c.ask(func(ctx context.Context, node *admin.Client, _ []string) error {
			all, err := node.Drains(ctx)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, d := range all {
				rows = append(rows, []string{drainName(d.Store), fmt.Sprintf("%g/s", d.Rate), when(d.Since), strconv.Itoa(d.Asked), strconv.Itoa(d.Left)})
			}
			return c.list(all, "OF\tRATE\tSINCE\tASKED\tLEFT", rows)
		})}
}

func (c *cli) drainStopCommand() *cobra.Command {
	var node bool
	cmd := &cobra.Command{Use: "stop [STORE]", Short: "Let new sessions in again", Args: cobra.MaximumNArgs(1),
		RunE: c.ask(func(ctx context.Context, n *admin.Client, args []string) error {
			store, err := drained(args, node)
			if err != nil {
				return err
			}
			if err := n.StopDrain(ctx, store); err != nil {
				return err
			}
			return c.done("%s takes sessions again", drainName(store))
		})}
	cmd.Flags().BoolVar(&node, "node", false, "the drain of the whole node")
	return cmd
}

// drained is what the command line means: a store's name, or empty for the node.
func drained(args []string, node bool) (string, error) {
	switch {
	case node == (len(args) > 0):
		return "", usagef("name a store, or --node")
	case node:
		return "", nil
	case args[0] == "":
		return "", usagef("a store has a name")
	}
	return args[0], nil
}

func drainName(store string) string {
	if store == "" {
		return "the node"
	}
	return "store " + store
}

// parseRate reads sessions a second.
func parseRate(s string) (float64, error) {
	number, unit, _ := strings.Cut(s, "/")
	n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || !(n > 0) {
		return 0, usagef("--rate %q: write 50/s or 30/m", s)
	}
	switch strings.TrimSpace(unit) {
	case "", "s":
		return n, nil
	case "m", "min":
		return n / 60, nil
	}
	return 0, usagef("--rate %q: write 50/s or 30/m", s)
}

// followDrain shows a drain until nobody is left.
func (c *cli) followDrain(ctx context.Context, node *admin.Client, store string) error {
	last := ""
	for {
		d, err := findDrain(ctx, node, store)
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s: %d sessions asked to leave, %d are left", drainName(store), d.Asked, d.Left)
		if line != last && !c.json {
			fmt.Fprintln(c.stdout, line)
			last = line
		}
		if d.Left == 0 {
			if c.json {
				return c.printJSON(d)
			}
			return c.done("%s is empty and takes no sessions until: mailferry drain stop%s", drainName(store), drainArgument(store))
		}
		timer := time.NewTimer(drainPoll)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return admin.WithHint(ctx.Err(), "the drain goes on; end it with: mailferry drain stop"+drainArgument(store))
		}
	}
}

func drainArgument(store string) string {
	if store == "" {
		return " --node"
	}
	return " " + store
}

func findDrain(ctx context.Context, node *admin.Client, store string) (admin.Drain, error) {
	all, err := node.Drains(ctx)
	if err != nil {
		return admin.Drain{}, err
	}
	for _, d := range all {
		if d.Store == store {
			return d, nil
		}
	}
	return admin.Drain{}, backend.NewError(backend.KindConflict, "the drain of "+drainName(store)+" was stopped by somebody")
}
