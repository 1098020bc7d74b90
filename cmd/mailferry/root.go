package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"mailferry/internal/admin"
	"mailferry/internal/config"
)

// cli is what all commands share.
type cli struct {
	stdin          *os.File
	stdout, stderr io.Writer

	// flags of every command
	data, file             string
	address, cert, key, ca string // of a node's admin listener
	json                   bool

	// started: arguments and flags were right; errors before are usage errors.
	started bool
}

const rootHelp = `mailferry is a proxy for IMAP, POP3, ManageSieve and LMTP, a mailstore and the
engine that moves mailboxes between stores while their owners are logged in.

Start with "mailferry serve": without a configuration it is a whole mail system
on loopback, and prints how to connect. The other commands talk to the running
node through the socket in its data directory: name it with --data or --config
where it is not ./mailferry-data; or from afar through its admin listener, with
--admin and a certificate.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 done in part.`

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use: "mailferry", Short: "Move mailboxes while their owners are logged in", Long: rootHelp,
		SilenceUsage: true, SilenceErrors: true,
		PersistentPreRun: func(*cobra.Command, []string) { c.started = true },
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
		Args: cobra.NoArgs,
	}
	root.PersistentFlags().StringVar(&c.data, "data", "", "data `directory` of the node (default mailferry-data)")
	root.PersistentFlags().StringVar(&c.file, "config", os.Getenv("MAILFERRY_CONFIG"), "configuration `file` of the node; also from MAILFERRY_CONFIG")
	root.PersistentFlags().StringVar(&c.address, "admin", os.Getenv("MAILFERRY_ADMIN"), "`address` of a node's admin listener, https://host:8443, in place of its socket; also from MAILFERRY_ADMIN")
	root.PersistentFlags().StringVar(&c.cert, "cert", os.Getenv("MAILFERRY_CERT"), "with --admin: PEM `file` of your certificate; also from MAILFERRY_CERT")
	root.PersistentFlags().StringVar(&c.key, "key", os.Getenv("MAILFERRY_KEY"), "with --admin: PEM `file` of its private key; also from MAILFERRY_KEY")
	root.PersistentFlags().StringVar(&c.ca, "ca", os.Getenv("MAILFERRY_CA"), "with --admin: PEM `file` of the authorities that may have signed the node's certificate; also from MAILFERRY_CA")
	root.PersistentFlags().BoolVar(&c.json, "json", false, "print listings as JSON")
	root.AddCommand(c.serveCommand(), c.initCommand(), c.configCommand(), c.userCommand(), c.migrateCommand(), c.verifyCommand(), c.copyCommand(), c.whoCommand(),
		c.kickCommand(), c.drainCommand(), c.explainCommand(), c.verifyRoutesCommand(), c.placementsCommand(), c.healthCommand(), c.fsckCommand(), c.versionCommand())
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetOut(c.stdout)
	root.SetErr(c.stderr)
	return root
}

// execute runs one command line and returns the exit code.
func (c *cli) execute(ctx context.Context, args []string) int {
	root := c.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !c.started {
		err = usageError{admin.WithHint(err, "see: "+cmd.CommandPath()+" --help")}
	}
	if err != nil {
		c.report(err)
	}
	return exitCode(err)
}

// load reads the configuration that --config and --data name.
func (c *cli) load(ports int) (*config.Config, error) {
	return config.Load(config.Options{File: c.file, Data: c.data, Ports: ports})
}

// client is for the node that --admin, or else --config and --data name.
func (c *cli) client() (*admin.Client, error) {
	if c.address != "" {
		return c.remote()
	}
	conf, err := c.load(0)
	if err != nil {
		return nil, err
	}
	return admin.NewClient(conf.Data), nil
}

// remote is for the node that --admin names.
func (c *cli) remote() (*admin.Client, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if (c.cert == "") != (c.key == "") {
		return nil, usagef("--cert and --key go together")
	}
	if c.cert != "" {
		pair, err := tls.LoadX509KeyPair(c.cert, c.key)
		if err != nil {
			return nil, fmt.Errorf("--cert %s: %w", c.cert, err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	if c.ca != "" {
		text, err := os.ReadFile(c.ca)
		if err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
		if t.RootCAs = x509.NewCertPool(); !t.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("--ca %s: no certificate in it", c.ca)
		}
	}
	return admin.NewRemoteClient(c.address, t)
}

// ask runs a command that is a client of the node.
func (c *cli) ask(fn func(ctx context.Context, node *admin.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		node, err := c.client()
		if err != nil {
			return err
		}
		defer node.Close()
		return fn(cmd.Context(), node, args)
	}
}

// interactive reports whether a person reads what is printed.
func (c *cli) interactive() bool {
	f, ok := c.stdout.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return false
	}
	width, _, err := term.GetSize(int(f.Fd()))
	return err == nil && width > 0 // nothing can be drawn on a terminal without a size
}
