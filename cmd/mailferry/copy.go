package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mailferry/backend"
	"mailferry/internal/admin"
	"mailferry/internal/app"
	"mailferry/internal/imapsync"
)

const copyHelp = `Copies mail between any two IMAP servers, as imapsync does, without a node: with
dates, flags and keywords, every message once, however often it runs or is
interrupted. The source is never changed. It takes imapsync's options; each one,
and what it means here, is in docs/imapsync.md.

Messages keep everything but their UIDs, which a foreign server gives anew: mail
clients download them again. Only a move to our own store keeps them (mailferry
migrate). What a target refuses is named at the end, and kept in a file.

  --host1 HOST --user1 NAME --passfile1 FILE    the source (also --port1, --password1)
  --host2 HOST --user2 NAME --passfile2 FILE    the target
  --authuser1 ADMIN                             an admin logs in for the user
  --nossl1 --notls1, --tls1                     no TLS, STARTTLS; default: TLS, port 993
  --folder, --folderrec, --include, --exclude   which mailboxes
  --automap, --f1f2 A=B, --regextrans2 s/a/b/   their names at the target
  --maxsize, --minsize, --maxage, --search      which messages
  --delete2, --delete2folders                   what only the target has goes
  --justfolders, --subscribeall, --dry
  --syncacls, --acluser A=B                     access rights, too; others' names
  --nosyncquota, --nosyncmetadata, --nosyncsieve   leave these alone

And of our own:
  --users FILE      many accounts: a CSV file with the columns user1, password1,
                    user2, password2 (the last three may be missing), or as a
                    first line names them
  --parallel N      accounts at a time (default 4)
  --reread PERCENT  of the messages sent, so many are read again from the target
                    (default 10, -1: none)
  --state DIR       where the maps and reports are kept
  --sieveport1 N, --sieveport2 N   ports of ManageSieve (default 4190)
  --popport1 N, --popport2 N       POP3: count the unique ids that differ
  --verbose         a log on standard error
  --json            the result as JSON

Passwords may also come from IMAPSYNC_PASSWORD1 and IMAPSYNC_PASSWORD2.
Exit codes: 0 all is at the target, 1 failed, 2 usage, 3 something is missing.`

func (c *cli) copyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "copy --host1 HOST --user1 NAME ... --host2 HOST --user2 NAME ...", Short: "Copy mail between two IMAP servers, by imapsync's options", Long: copyHelp,
		Example: `  mailferry copy --host1 old.example.org --user1 anna --passfile1 a.secret \
      --host2 new.example.org --user2 anna --passfile2 b.secret --dry`,
		DisableFlagParsing: true,
		RunE:               func(cmd *cobra.Command, args []string) error { return c.copy(cmd, args) },
	}
}

// fromImapsync runs an imapsync command line.
func (c *cli) fromImapsync(cmd *cobra.Command, line string) error {
	args, err := imapsync.Split(line)
	if err != nil {
		return usageError{err}
	}
	return c.copy(cmd, args)
}

// ownCopyOptions are those that imapsync does not have.
type ownCopyOptions struct {
	users, state     string
	parallel, reread int
	verbose, help    bool
}

// takeOwn takes our options out of args.
func (c *cli) takeOwn(args []string) (o ownCopyOptions, rest []string, err error) {
	number := func(to *int) func(string) error {
		return func(v string) (err error) { *to, err = strconv.Atoi(v); return err }
	}
	word := func(to *string) func(string) error { return func(v string) error { *to = v; return nil } }
	values := map[string]func(string) error{"--users": word(&o.users), "--state": word(&o.state),
		"--parallel": number(&o.parallel), "--reread": number(&o.reread)}
	flags := map[string]*bool{"--verbose": &o.verbose, "--help": &o.help, "-h": &o.help, "--json": &c.json}
	for i := 0; i < len(args); i++ {
		name, value, inline := strings.Cut(args[i], "=")
		if b := flags[name]; b != nil && !inline {
			*b = true
			continue
		}
		set := values[name]
		if set == nil {
			rest = append(rest, args[i])
			continue
		}
		if !inline {
			if i++; i == len(args) {
				return o, nil, usagef("%s wants a value", name)
			}
			value = args[i]
		}
		if err := set(value); err != nil {
			return o, nil, usagef("%s %s: not a number", name, value)
		}
	}
	return o, rest, nil
}

func (c *cli) copy(cmd *cobra.Command, args []string) error {
	own, args, err := c.takeOwn(args)
	if err != nil {
		return err
	}
	if own.help || len(args) == 0 {
		fmt.Fprintln(c.stdout, copyHelp)
		return nil
	}
	job, err := imapsync.Parse(args)
	if err != nil {
		return usageError{admin.WithHint(err, "each option is in docs/imapsync.md")}
	}
	accounts, err := copyAccounts(job, own.users)
	if err != nil {
		return err
	}
	if err := job.Complete(); err != nil {
		return usageError{err}
	}
	if own.state == "" {
		if own.state, err = stateDir(); err != nil {
			return err
		}
	}
	for _, name := range job.Ignored {
		if own.verbose {
			fmt.Fprintf(c.stderr, "--%s has no effect here\n", name)
		}
	}
	log := slog.New(slog.DiscardHandler)
	if own.verbose {
		log = slog.New(slog.NewTextHandler(c.stderr, nil))
	}
	job.Rules.NoACL, job.Rules.TellACL = !job.SyncACLs, !job.NoSyncACLs
	return c.runCopy(cmd.Context(), app.CopyOptions{Dir: own.state, From: job.From.Store("source"), To: job.To.Store("target"), Accounts: accounts,
		Filter: &job.Filter, Rules: &job.Rules, Dry: job.Dry, Parallel: own.parallel, Reread: own.reread, Logger: log})
}

func stateDir() (string, error) {
	if d := os.Getenv("XDG_STATE_HOME"); d != "" {
		return filepath.Join(d, "mailferry", "copies"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", admin.WithHint(err, "name a directory: --state DIR")
	}
	return filepath.Join(home, ".local", "state", "mailferry", "copies"), nil
}

// copyAccounts are the account of the command line, or those of a file.
func copyAccounts(job *imapsync.Job, file string) ([]app.CopyAccount, error) {
	one := app.CopyAccount{From: job.From.User, To: job.To.User, FromPassword: job.From.Password, ToPassword: job.To.Password}
	if file == "" {
		return []app.CopyAccount{one}, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list, err := readAccounts(f, one)
	if err != nil {
		return nil, usageError{fmt.Errorf("%s: %w", file, err)}
	}
	if len(list) == 0 {
		return nil, usagef("%s names no accounts", file)
	}
	// What the file says of everybody need not be said on the command line.
	job.From.User, job.To.User = list[0].From, list[0].To
	job.From.Password, job.To.Password = list[0].FromPassword, list[0].ToPassword
	if job.From.AuthUser != "" {
		job.From.Password = one.FromPassword
	}
	if job.To.AuthUser != "" {
		job.To.Password = one.ToPassword
	}
	return list, nil
}

// readAccounts reads user1, password1, user2, password2, or the columns that a
// first line names; what a line leaves out
// is as in def, user2 as user1.
func readAccounts(in io.Reader, def app.CopyAccount) (list []app.CopyAccount, err error) {
	columns := []string{"user1", "password1", "user2", "password2"}
	r := csv.NewReader(in)
	r.FieldsPerRecord, r.TrimLeadingSpace, r.Comment = -1, true, '#'
	for {
		rec, err := r.Read()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		if len(rec) == 1 && strings.Contains(rec[0], ";") {
			rec = strings.Split(rec[0], ";")
		}
		if slices.ContainsFunc(rec, func(s string) bool { return strings.EqualFold(s, "user1") }) { // names the columns
			if columns, err = accountColumns(rec, columns); err != nil {
				return nil, err
			}
			continue
		}
		field := func(name string) string {
			if i := slices.Index(columns, name); i >= 0 && i < len(rec) {
				return rec[i]
			}
			return ""
		}
		a := app.CopyAccount{From: field("user1"), To: field("user2"), FromPassword: backend.Secret(field("password1")), ToPassword: backend.Secret(field("password2"))}
		if a.From == "" {
			continue
		}
		if a.To == "" {
			a.To = a.From
		}
		if a.FromPassword == "" {
			a.FromPassword = def.FromPassword
		}
		if a.ToPassword == "" {
			a.ToPassword = def.ToPassword
		}
		list = append(list, a)
	}
}

// accountColumns is a first line that names the columns, in whatever order.
func accountColumns(rec, known []string) ([]string, error) {
	out := make([]string, len(rec))
	for i, s := range rec {
		if out[i] = strings.ToLower(strings.TrimSpace(s)); !slices.Contains(known, out[i]) {
			return nil, fmt.Errorf("column %q is none of %s", s, strings.Join(known, ", "))
		}
	}
	return out, nil
}

func (c *cli) runCopy(ctx context.Context, o app.CopyOptions) error {
	var view progress = &lines{out: c.stdout, states: map[string]string{}, now: time.Now}
	switch {
	case c.json:
		view = silent{}
	case c.interactive():
		view = newBars(ctx, c.stdout)
	}
	res, err := app.Copy(ctx, o, view.show)
	view.end()
	if err != nil {
		return err
	}
	if c.json {
		if err := c.printJSON(res); err != nil {
			return err
		}
	}
	return c.copied(o, res)
}

// maxShownExceptions of a user are printed; the report has all.
const maxShownExceptions = 20

// copied says what came of a copy: in words and as an exit code.
func (c *cli) copied(o app.CopyOptions, res *app.CopyResult) error {
	failed, missing := 0, 0
	for _, m := range res.Batch.Moves {
		if m.Failed {
			failed++
			fmt.Fprintf(c.stderr, "%s: %s\n", m.User, m.Reason)
			if hint := copyHint(m.Reason); hint != "" {
				fmt.Fprintf(c.stderr, "hint: %s\n", hint)
			}
		}
	}
	failed = max(failed, res.Batch.Failed)
	for _, user := range slices.Sorted(maps.Keys(res.Reports)) {
		r := res.Reports[user]
		if r.Side != nil && o.Dry && !c.json {
			for _, what := range r.Side.Changes {
				fmt.Fprintf(c.stdout, "%s: would be: %s\n", user, what)
			}
		}
		for i, x := range r.Exception {
			if x.Skipped {
				missing++
			}
			if i < maxShownExceptions && !c.json {
				fmt.Fprintf(c.stderr, "%s: %s\n", user, describe(x.Mailbox, uint32(x.UID), x.What))
			}
		}
		if n := len(r.Exception); n > maxShownExceptions && !c.json {
			fmt.Fprintf(c.stderr, "%s: and %d more\n", user, n-maxShownExceptions)
		}
	}
	if !c.json {
		what := fmt.Sprintf("%d messages at the target, %s copied now", res.Batch.MessagesDone, bytesText(res.Batch.BytesDone))
		if o.Dry {
			what = "nothing was changed"
		}
		fmt.Fprintf(c.stdout, "%d of %d users done, %s; reports are in %s\n", res.Batch.Users-failed, res.Batch.Users, what, res.Dir)
	}
	switch {
	case failed == res.Batch.Users:
		return fmt.Errorf("%d of %d users failed", failed, res.Batch.Users)
	case failed > 0:
		return fmt.Errorf("%w: %d of %d users failed", errPartial, failed, res.Batch.Users)
	case missing > 0:
		return fmt.Errorf("%w: %d messages are not at the target", errPartial, missing)
	}
	return nil
}

// copyHint says what somebody who comes from imapsync may not expect.
func copyHint(reason string) string {
	n := "1"
	if strings.Contains(reason, "store target") {
		n = "2"
	}
	switch {
	case strings.Contains(reason, "failed to verify certificate"):
		return fmt.Sprintf("certificates are checked, unless --sslargs%s SSL_verify_mode=0", n)
	case strings.Contains(reason, "connection refused"):
		return fmt.Sprintf("without --port%s it is port 993, with TLS; --tls%s is port 143, with STARTTLS; --nossl%s --notls%s is no TLS", n, n, n, n)
	}
	return ""
}

func describe(mailbox string, uid uint32, what string) string {
	switch {
	case uid != 0:
		return fmt.Sprintf("%s, UID %d: %s", mailbox, uid, what)
	case mailbox != "":
		return mailbox + ": " + what
	}
	return what
}
