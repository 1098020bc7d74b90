package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"mailferry/internal/app"
	"mailferry/internal/config"
)

const serveHelp = `Runs a node until it gets SIGTERM or SIGINT. Without a configuration it is a
whole mail system on loopback that keeps everything in ./mailferry-data: at the
first start it makes a certificate, an admin and a user, and prints how to
connect. SIGHUP reads certificates, directories and the log settings again.`

func (c *cli) serveCommand() *cobra.Command {
	var ports int
	var profiles string
	cmd := &cobra.Command{
		Use: "serve", Short: "Run a node", Long: serveHelp, Args: cobra.NoArgs,
		Example: `  mailferry serve
  mailferry serve --data /tmp/a --ports 20000
  mailferry serve --config /etc/mailferry/mailferry.yaml`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if profiles != "" {
				if err := servePprof(cmd.Context(), profiles); err != nil {
					return err
				}
			}
			return c.serve(cmd.Context(), ports)
		},
	}
	cmd.Flags().IntVar(&ports, "ports", 0, "first port of the default listeners: `base`, base+1 and so on")
	cmd.Flags().StringVar(&profiles, "pprof", "", "`address` on loopback to show profiles at, for measuring")
	_ = cmd.Flags().MarkHidden("pprof")
	return cmd
}

// serve runs a node; ctx ends it gracefully.
func (c *cli) serve(ctx context.Context, ports int) error {
	hangup := make(chan os.Signal, 1) // from the first moment: unheard it would kill the process
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	node, err := app.New(ctx, app.Options{
		Load:    func() (*config.Config, error) { return c.load(ports) },
		Log:     c.stderr,
		Banner:  c.stdout,
		Version: versionText(),
	})
	if err != nil {
		return err
	}
	if err := node.Start(ctx); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	for {
		select {
		case <-hangup:
			node.Reload() // logs what it did or why not
		case err := <-node.Failed():
			node.Stop()
			return err
		case <-ctx.Done():
			return node.Stop()
		}
	}
}
