package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"mailferry/internal/admin"
)

const migrateHelp = `Moves users to another store while they are logged in: their mail is copied with
UIDs, flags and dates, followed until little is missing, and then the user is
put on hold for a moment, compared and flipped. Sessions go on at the new store.

Users are named as arguments, in a CSV file with a column "user" (or one name a
line), or by a filter in the language of their directory. The command shows the
progress until all are done; it may be interrupted or detached: the node goes
on. --dry only says what would happen; --copy-only copies and compares and
leaves the users where they are.`

func (c *cli) migrateCommand() *cobra.Command {
	var r admin.MoveRequest
	var file string
	var detach bool
	cmd := &cobra.Command{
		Use: "migrate [USER...] --to STORE", Short: "Move users to another store while they are logged in", Long: migrateHelp,
		Example: `  mailferry migrate anna@example.org --to home
  mailferry migrate --users wave1.csv --from old1 --to home --parallel 8
  mailferry migrate --where '(ou=sales)' --to home --dry
  mailferry migrate status`,
		Args: cobra.ArbitraryArgs,
		RunE: c.ask(func(ctx context.Context, node *admin.Client, args []string) error {
			if err := selectUsers(&r, args, file); err != nil {
				return err
			}
			batch, err := node.Migrations().Start(ctx, r)
			if err != nil {
				return err
			}
			if detach {
				return c.done("%s", batch.ID)
			}
			return c.follow(ctx, node, batch.ID)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&file, "users", "", "CSV `file` with users")
	f.StringVar(&r.Where, "where", "", "`filter` that selects users")
	f.StringVar(&r.From, "from", "", "move only users who live on this `store`")
	f.StringVar(&r.To, "to", "", "the `store` to move to")
	f.IntVar(&r.Parallel, "parallel", 0, "users copied at a time (default: the configuration's)")
	f.BoolVar(&r.Dry, "dry", false, "check and plan only")
	f.BoolVar(&r.CopyOnly, "copy-only", false, "copy and compare, but leave users where they are")
	f.IntVar(&r.Reread, "reread", 0, "share of messages that are read again from the new store's disk, in `percent` (default 10, -1: none)")
	f.IntVar(&r.Prove, "prove", 0, "share of messages that the old store is asked for again, in `percent` (default 10 for Cyrus, else none)")
	f.StringVar(&r.POP3, "pop3", "", "carry POP3 unique ids over: auto, always or never (default: the configuration's)")
	f.BoolVar(&r.ForcePOP3, "force-pop3", false, "move users although POP3 ids of the old store have no message")
	f.BoolVar(&detach, "detach", false, "print the batch's id and return")
	cmd.AddCommand(c.migrateStatusCommand(), c.migrateShowCommand(), c.migrateReportCommand(), c.migrateCheckCommand(), c.migrateWatchCommand(),
		c.migrateTellCommand("pause", "Start no further step of a batch; users on hold are finished", (*admin.MigrationClient).Pause),
		c.migrateTellCommand("resume", "Go on with a paused batch", (*admin.MigrationClient).Resume), c.migrateRetryCommand())
	return cmd
}

// selectUsers puts the users of exactly one source into the request.
func selectUsers(r *admin.MoveRequest, args []string, file string) error {
	sources := 0
	for _, given := range []bool{len(args) > 0, file != "", r.Where != ""} {
		if given {
			sources++
		}
	}
	switch {
	case sources != 1:
		return usageError{admin.WithHint(errors.New("name users, or --users FILE, or --where FILTER"), "see: mailferry migrate --help")}
	case r.To == "":
		return usageError{admin.WithHint(errors.New("--to is missing: where shall they move?"), "stores are listed by: mailferry config show")}
	case file == "":
		r.Users = args
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if r.Users, err = readUsers(f); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if len(r.Users) == 0 {
		return usagef("%s names no users", file)
	}
	return nil
}

// readUsers reads the column "user" of a CSV file, the first column of one
// without header, or one name a line.
func readUsers(in io.Reader) ([]string, error) {
	r := csv.NewReader(in)
	r.FieldsPerRecord, r.TrimLeadingSpace, r.Comment = -1, true, '#'
	records, err := r.ReadAll()
	if err != nil {
		return nil, err
	}
	column := 0
	if len(records) > 0 {
		if i := slices.IndexFunc(records[0], func(s string) bool { return strings.EqualFold(strings.TrimSpace(s), "user") }); i >= 0 {
			column, records = i, records[1:]
		}
	}
	var users []string
	for _, record := range records {
		if column < len(record) && strings.TrimSpace(record[column]) != "" {
			users = append(users, strings.TrimSpace(record[column]))
		}
	}
	return users, nil
}
