package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"mailferry/internal/admin"
)

const migrateHelp = `Moves users to another store while they are logged in: their mail is copied with
UIDs, flags and dates, followed until little is missing, and then the user is
put on hold for a moment, compared and flipped. Sessions go on at the new store.

Users are named as arguments, in a CSV file (or one name a line), or by a filter
in the language of their directory. The command shows the progress until all are
done; it may be interrupted or detached: the node goes on. --dry only says what
would happen; --copy-only copies and compares and leaves the users where they
are; --flip-on-order follows them, too, and flips those who are named to mailferry
migrate cutover.

Columns of a CSV file, named in its first line; only "user" is needed:
  user                  the user's name
  from, to              old and new store, in place of --from and --to
  login                 the user's name at the old store
  password, passfile    the user's own password there, or a file on the node with
                        it, for stores without an admin's login
  priority              a number; higher ones move first
  last-login, size      a date or time, and bytes (or 3GiB), for --order
  not-before            a date (2026-11-30) or a time (2026-11-30T22:00:00+01:00)
  wave                  users of a wave begin when the wave before is done

Windows are times of the week: "22:00-06:00", "Mon-Fri 20:00-06:00, Sat-Sun
00:00-24:00", with a zone at the end ("Europe/Zurich") where it is not the node's.`

func (c *cli) migrateCommand() *cobra.Command {
	var r admin.MoveRequest
	var file string
	var detach bool
	var imapsyncLine string
	var run func(*cobra.Command, []string) error
	cmd := &cobra.Command{
		Use: "migrate [USER...] --to STORE", Short: "Move users to another store while they are logged in", Long: migrateHelp,
		Example: `  mailferry migrate anna@example.org --to home
  mailferry migrate --users wave1.csv --from old1 --to home --parallel 8
  mailferry migrate --users all.csv --to home --wave-size 500 --stop-at 2% --flip-window 22:00-06:00
  mailferry migrate --users all.csv --to home --limit 100
  mailferry migrate --where '(ou=sales)' --to home --dry
  mailferry migrate status`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if imapsyncLine != "" {
				return c.fromImapsync(cmd, imapsyncLine)
			}
			return run(cmd, args)
		},
	}
	run = c.ask(func(ctx context.Context, node *admin.Client, args []string) error {
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
	})
	f := cmd.Flags()
	f.StringVar(&file, "users", "", "CSV `file` with users")
	f.StringVar(&r.Where, "where", "", "`filter` that selects users")
	f.StringVar(&r.From, "from", "", "move only users who live on this `store`")
	f.StringVar(&r.To, "to", "", "the `store` to move to")
	f.IntVar(&r.Limit, "limit", 0, "only the next `N` users, by priority, who are not at their new store yet")
	f.IntVar(&r.WaveSize, "wave-size", 0, "begin with `N` users, and with the next N when they are done")
	f.StringSliceVar(&r.Hooks, "hook", nil, "tell this `hook` of the configuration, beside those that every batch has")
	f.StringVar(&r.StopAt, "stop-at", "", "pause when so many users of a wave failed: 10, or `5%`")
	f.StringVar(&r.Window, "window", "", "copy and flip only in this `time` of the day or week")
	f.StringVar(&r.FlipWindow, "flip-window", "", "flip users only in this `time`; they are copied before")
	f.IntVar(&r.Parallel, "parallel", 0, "users copied at a time (default: the configuration's)")
	f.BoolVar(&r.Dry, "dry", false, "check and plan only")
	f.BoolVar(&r.CopyOnly, "copy-only", false, "copy and compare, but leave users where they are")
	f.BoolVar(&r.OnOrder, "flip-on-order", false, "copy and follow users, and flip them when mailferry migrate cutover says so")
	f.StringVar(&r.Order, "order", "", "who comes first, among equal priorities: `csv` (as named, the default), name, size (the smallest, by a column of --users) or last-login (the latest that the node saw, or a column of --users says)")
	f.IntVar(&r.Reread, "reread", 0, "share of messages that are read again from the new store's disk, in `percent` (default 10, -1: none)")
	f.IntVar(&r.Prove, "prove", 0, "share of messages that the old store is asked for again, in `percent` (default 10 for Cyrus, else none)")
	f.StringVar(&r.Soak, "soak", "", "how long the old store follows behind a flip, so that users can be rolled back: `time` such as 7d or 36h (default: the configuration's)")
	f.StringVar(&r.POP3, "pop3", "", "carry POP3 unique ids over: auto, always or never (default: the configuration's)")
	f.BoolVar(&r.ForcePOP3, "force-pop3", false, "move users although POP3 ids of the old store have no message")
	f.StringVar(&imapsyncLine, "from-imapsync", "", "do what an imapsync command `line` would (see: mailferry copy --help)")
	f.StringVar(&r.Copy, "copy-options", "", "for a foreign --to: imapsync's `options` for mailboxes and messages, e.g. '--automap --exclude ^Spam'")
	f.BoolVar(&detach, "detach", false, "print the batch's id and return")
	cmd.AddCommand(c.migrateStatusCommand(), c.migrateShowCommand(), c.migrateReportCommand(), c.migrateCheckCommand(), c.migrateWatchCommand(),
		c.migrateTellCommand("pause", "Start no further step of a batch; users on hold are finished", (*admin.MigrationClient).Pause),
		c.migrateTellCommand("resume", "Go on with a paused batch", (*admin.MigrationClient).Resume),
		c.migrateTellCommand("stop", "End a batch for good; users who are not flipped stay where they are", (*admin.MigrationClient).Stop),
		c.migrateRetryCommand(), c.migrateRollbackCommand(), c.migrateFinaliseCommand(), c.migrateCutoverCommand())
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
	case r.Limit < 0, r.WaveSize < 0, r.Parallel < 0:
		return usagef("--limit, --wave-size and --parallel are numbers above zero")
	case file == "":
		r.Users = args
		return needStore(r)
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if r.Users, r.Each, err = readUsers(f); err != nil {
		return usageError{fmt.Errorf("%s: %w", file, err)}
	}
	if len(r.Users) == 0 {
		return usagef("%s names no users", file)
	}
	return needStore(r)
}

// needStore wants a new store for everybody.
func needStore(r *admin.MoveRequest) error {
	if r.To != "" {
		return nil
	}
	for _, u := range r.Users {
		if r.Each[u].To == "" {
			return usageError{admin.WithHint(errors.New("--to is missing: where shall they move?"), "stores are listed by: mailferry config show")}
		}
	}
	if len(r.Users) == 0 {
		return usageError{admin.WithHint(errors.New("--to is missing: where shall they move?"), "stores are listed by: mailferry config show")}
	}
	return nil
}
