package main

import (
	"errors"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"mailferry/internal/admin"
	"mailferry/internal/config"
)

func (c *cli) initCommand() *cobra.Command {
	return &cobra.Command{
		Use: "init [FILE]", Short: "Write a commented configuration to start from (default mailferry.yaml)",
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			file := "mailferry.yaml"
			if len(args) > 0 {
				file = args[0]
			}
			// Secrets may be written into it later.
			f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if errors.Is(err, fs.ErrExist) {
				return admin.WithHint(err, "name another file: mailferry init FILE")
			}
			if err != nil {
				return err
			}
			if _, err = f.WriteString(config.Example); err != nil {
				f.Close()
				return err
			}
			if err := f.Close(); err != nil {
				return err
			}
			return c.done("wrote %s; check it with: mailferry config check %s", file, file)
		},
	}
}
