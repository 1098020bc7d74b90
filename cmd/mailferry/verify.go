package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"mailferry/internal/admin"
)

const verifyHelp = `Compares users' mail at two stores over IMAP, mailbox by mailbox and message by
message: names, UIDVALIDITY, UIDNEXT, UIDs, flags, dates, sizes, subscriptions,
special uses, and the octets of a share of the messages. Nothing is changed.

--bodies 100 compares the octets of every message (Cyrus tells digests, others
are read). --cached compares what mail clients keep for ever, too: ENVELOPE,
BODYSTRUCTURE and header. --by-content is for stores that do not share UIDs.
--new is for a store that is in use: mail that came since is no difference.

Exit codes: 0 all are equal, 1 something differs, 3 nothing was found to differ,
but some users could not be compared.`

func (c *cli) verifyCommand() *cobra.Command {
	var r admin.VerifyRequest
	var file string
	cmd := &cobra.Command{
		Use: "verify [USER...] --from STORE --to STORE", Short: "Compare users' mail at two stores", Long: verifyHelp,
		Example: `  mailferry verify anna@example.org --from old1 --to home
  mailferry verify --users wave1.csv --from old1 --to home --bodies 100 --json`,
		Args: cobra.ArbitraryArgs,
		RunE: c.ask(func(ctx context.Context, node *admin.Client, args []string) error {
			if err := verifiedUsers(&r, args, file); err != nil {
				return err
			}
			return c.verify(ctx, node, r)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&file, "users", "", "CSV `file` with users; the columns login, password and passfile say how they log in at --from")
	f.StringVar(&r.Where, "where", "", "`filter` that selects users")
	f.StringVar(&r.From, "from", "", "the `store` that is right")
	f.StringVar(&r.To, "to", "", "the `store` to compare with it")
	f.IntVar(&r.Bodies, "bodies", 10, "share of messages whose octets are compared, in `percent`")
	f.BoolVar(&r.Cached, "cached", false, "compare ENVELOPE, BODYSTRUCTURE and header")
	f.BoolVar(&r.ByContent, "by-content", false, "pair messages by their octets, not by UID")
	f.BoolVar(&r.New, "new", false, "mail that came to the second store since is no difference")
	f.IntVar(&r.Parallel, "parallel", 0, "users at a time (default: the configuration's)")
	f.IntVar(&r.Samples, "samples", 20, "differences shown of each kind and user")
	return cmd
}

// verifiedUsers puts the users of exactly one source into the request.
func verifiedUsers(r *admin.VerifyRequest, args []string, file string) error {
	if r.From == "" || r.To == "" {
		return usageError{admin.WithHint(errors.New("--from and --to are needed: which stores?"), "stores are listed by: mailferry config show")}
	}
	m := admin.MoveRequest{Where: r.Where, To: r.To}
	if err := selectUsers(&m, args, file); err != nil {
		return err
	}
	r.Users, r.Each = m.Users, m.Each
	return nil
}

// verify prints each result as it comes.
func (c *cli) verify(ctx context.Context, node *admin.Client, r admin.VerifyRequest) error {
	var users, equal, differ, failed int
	var messages, bodies int64
	err := node.Verify(ctx, r, func(v admin.Verification) error {
		users, messages, bodies = users+1, messages+v.Messages, bodies+v.Bodies
		switch {
		case v.Equal:
			equal++
		case len(v.Classes) > 0:
			differ++
		default:
			failed++
		}
		if c.json {
			return json.NewEncoder(c.stdout).Encode(v)
		}
		return c.printVerification(&v)
	})
	if err != nil {
		return err
	}
	if !c.json {
		if err := c.done("%d users compared, %d messages, %d bodies: %d equal, %d differ, %d could not be compared",
			users, messages, bodies, equal, differ, failed); err != nil {
			return err
		}
	}
	switch {
	case differ > 0:
		return fmt.Errorf("%s differs from %s for %d of %d users", r.To, r.From, differ, users)
	case failed > 0:
		return errPartial
	}
	return nil
}

func (c *cli) printVerification(v *admin.Verification) error {
	state := "equal"
	switch {
	case v.Error != "":
		state = "not compared: " + v.Error
	case !v.Equal:
		state = "differs"
	}
	var added string
	if v.New > 0 {
		added = fmt.Sprintf(", %d new", v.New)
	}
	if err := c.done("%s  %d mailboxes, %d messages%s, %d bodies  %s", v.User, v.Mailboxes, v.Messages, added, v.Bodies, state); err != nil {
		return err
	}
	for _, class := range slices.Sorted(maps.Keys(v.Classes)) {
		if err := c.done("  %s: %d", class, v.Classes[class]); err != nil {
			return err
		}
		for _, d := range v.Differences {
			if d.Class != class {
				continue
			}
			where := d.Mailbox
			if d.UID != 0 {
				where += fmt.Sprintf(" UID %d", d.UID)
			}
			if err := c.done("    %s", strings.TrimSpace(where+"  "+d.What)); err != nil {
				return err
			}
		}
	}
	return nil
}

// migrateReportCommand prints, saves or checks a certificate.
func (c *cli) migrateReportCommand() *cobra.Command {
	var page bool
	cmd := &cobra.Command{Use: "report USER", Short: "Print the certificate of a user's move: JSON, or a page for people", Args: cobra.ExactArgs(1),
		Example: `  mailferry migrate report anna@example.org > anna.json
  mailferry migrate report anna@example.org --page > anna.html
  mailferry migrate check anna.json`,
		RunE: c.ask(func(ctx context.Context, node *admin.Client, args []string) error {
			fetch := node.Migrations().Report
			if page {
				fetch = node.Migrations().Page
			}
			text, err := fetch(ctx, args[0])
			if err != nil {
				return err
			}
			return c.done("%s", strings.TrimRight(string(text), "\n"))
		})}
	cmd.Flags().BoolVar(&page, "page", false, "print one HTML file instead of JSON")
	return cmd
}

// migrateCheckCommand checks certificates without asking a node.
func (c *cli) migrateCheckCommand() *cobra.Command {
	var key string
	cmd := &cobra.Command{Use: "check FILE...", Short: "Check the signatures of certificates", Args: cobra.MinimumNArgs(1),
		Long: `Checks that certificates are as the engine wrote them. Whoever has a key can
sign, so compare the fingerprint: all certificates of a node carry the same.
--key refuses any other.`,
		RunE: func(_ *cobra.Command, args []string) error {
			for _, file := range args {
				text, err := os.ReadFile(file)
				if err != nil {
					return err
				}
				if err := c.checkCertificate(file, text, key); err != nil {
					return err
				}
			}
			return nil
		}}
	cmd.Flags().StringVar(&key, "key", "", "the `fingerprint` of the key that must have signed")
	return cmd
}
