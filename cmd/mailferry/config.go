package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"mailferry/internal/app"
	"mailferry/internal/config"
)

func (c *cli) configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Check, show and explain configurations"}
	check := &cobra.Command{
		Use: "check [FILE]", Short: "Report every mistake of a configuration with its line",
		Long: `Reads a configuration and the files that it names (secrets, certificates), and
reports every mistake with its line. Nothing is dialled and nothing is changed.`, Args: cobra.MaximumNArgs(1),
		Example: "  mailferry config check /etc/mailferry/mailferry.yaml",
		RunE: func(_ *cobra.Command, args []string) error {
			conf, err := c.loadNamed(args)
			if err != nil {
				return err
			}
			if err := app.Check(conf); err != nil {
				return usageError{err}
			}
			return c.done("configuration is good")
		},
	}
	show := &cobra.Command{
		Use: "show [FILE]", Short: "Print the settings in effect, secrets hidden", Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			conf, err := c.loadNamed(args)
			if err != nil {
				return err
			}
			text, err := config.Show(conf)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(c.stdout, text)
			return err
		},
	}
	cmd.AddCommand(check, show, c.importCommand(),
		c.printCommand("example", "Print a commented configuration", func() string { return config.Example }),
		c.printCommand("reference", "Print the page of all settings", config.Reference))
	return cmd
}

// loadNamed loads the file of the arguments, or that of --config.
func (c *cli) loadNamed(args []string) (*config.Config, error) {
	if len(args) > 0 {
		c.file = args[0]
	}
	return c.load(0)
}

func (c *cli) printCommand(name, short string, text func() string) *cobra.Command {
	return &cobra.Command{Use: name, Short: short, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprint(c.stdout, text())
			return err
		}}
}
