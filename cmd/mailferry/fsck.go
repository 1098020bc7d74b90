package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"mailferry/internal/admin"
)

func (c *cli) fsckCommand() *cobra.Command {
	var bodies bool
	cmd := &cobra.Command{
		Use: "fsck", Short: "Look for damage in our own store while it works; exit code 1 when there is some", Args: cobra.NoArgs,
		RunE: c.ask(func(ctx context.Context, node *admin.Client, _ []string) error {
			faults, err := node.Check(ctx, bodies)
			if err != nil {
				return err
			}
			if c.json {
				err = c.printJSON(faults)
			} else {
				for _, f := range faults {
					fmt.Fprintln(c.stdout, f)
				}
			}
			if err == nil && len(faults) > 0 {
				err = fmt.Errorf("%d faults", len(faults))
			}
			return err
		}),
	}
	cmd.Flags().BoolVar(&bodies, "bodies", false, "read every message, too, and compare its digest")
	return cmd
}
