package main

import (
	"encoding/json"
	"os"

	"github.com/spf13/cobra"

	"mailferry/internal/config/perdition"
)

// importCommand makes configurations of those of others.
func (c *cli) importCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "import", Short: "Make a configuration of another program's"}
	var output, report string
	from := &cobra.Command{
		Use: "perdition FILE... [-- OPTION...]", Short: "Of Perdition's files and options",
		Long: `Reads configuration files of Perdition 2.2, and the options of its command line
behind --, and prints a configuration that routes every user as Perdition did.
/etc/default/perdition may stand among the files. What became of each option is
reported on standard error; exit code 3 says that some have no equal.
docs/perdition.md has the table.`,
		Example: "  mailferry config import perdition /etc/perdition/perdition.conf --output mailferry.yaml",
		RunE: func(cmd *cobra.Command, args []string) error {
			files, options := args, []string(nil)
			if n := cmd.ArgsLenAtDash(); n >= 0 {
				files, options = args[:n], args[n:]
			}
			if len(files)+len(options) == 0 {
				return usagef("name a configuration file of Perdition, or its options behind --")
			}
			if report != "text" && report != "json" {
				return usagef("--report %s: it is text or json", report)
			}
			return c.importPerdition(files, options, output, report)
		},
	}
	from.Flags().StringVarP(&output, "output", "o", "", "write the configuration to this file, which must not exist yet")
	from.Flags().StringVar(&report, "report", "text", "form of the report: text or json")
	cmd.AddCommand(from)
	return cmd
}

func (c *cli) importPerdition(files, options []string, output, form string) error {
	res, err := perdition.Import(files, options)
	if err != nil {
		return err
	}
	if output == "" {
		_, err = c.stdout.Write([]byte(res.YAML))
	} else {
		err = writeNew(output, res.YAML)
	}
	if err != nil {
		return err
	}
	partial := errPartial
	if form == "json" {
		partial = errPartialSaid
		e := json.NewEncoder(c.stderr)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		err = e.Encode(res.Report)
	} else {
		err = res.Report.Text(c.stderr)
	}
	if err == nil && res.Report.Lost() {
		err = partial
	}
	return err
}

// writeNew makes a file that may hold passwords.
func writeNew(path, text string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.WriteString(text); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
