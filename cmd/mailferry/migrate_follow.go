package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"mailferry/internal/admin"
)

// progress shows a batch that runs. show gets what changed since the call before.
type progress interface {
	show(b *admin.Batch)
	end()
}

// follow shows a batch until it is done, then what failed.
func (c *cli) follow(ctx context.Context, node *admin.Client, id string) error {
	var view progress = &lines{out: c.stdout, states: map[string]string{}, now: time.Now}
	switch {
	case c.json:
		view = silent{}
	case c.interactive():
		view = newBars(ctx, c.stdout)
	}
	var last admin.Batch
	err := node.Migrations().Watch(ctx, id, func(b admin.Batch) error {
		last = b
		view.show(&b)
		return nil
	})
	view.end()
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return admin.WithHint(err, "the node goes on; see: mailferry migrate watch "+orDash(last.ID))
	}
	if err != nil {
		return err
	}
	return c.summary(ctx, node, &last)
}

// maxShownFailures are named at the end of a batch; show has all.
const maxShownFailures = 50

// summary ends a batch: in words and as an exit code.
func (c *cli) summary(ctx context.Context, node *admin.Client, b *admin.Batch) error {
	b.Moves = nil
	if c.json {
		for m, err := range node.Migrations().AllMoves(ctx, admin.MoveQuery{Batch: b.ID}) {
			if err != nil {
				return err
			}
			b.Moves = append(b.Moves, m)
		}
		if err := c.printJSON(b); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(c.stdout, "%d of %d users done, %d messages, %s\n", b.Moved, b.Users, b.MessagesDone, bytesText(b.BytesDone))
		if n := b.States["soaking"]; n > 0 {
			fmt.Fprintf(c.stdout, "%d soaking: the old store follows; mailferry migrate rollback USER..., or finalise USER..., or --batch %s\n", n, b.ID)
		}
		if b.RolledBack > 0 {
			fmt.Fprintf(c.stdout, "%d rolled back; mailferry migrate retry %s moves them again\n", b.RolledBack, b.ID)
		}
	}
	if b.Failed == 0 {
		return nil
	}
	if err := c.tellFailures(ctx, node, b); err != nil {
		return err
	}
	err := fmt.Errorf("%d of %d users failed", b.Failed, b.Users)
	if b.Failed < b.Users {
		err = fmt.Errorf("%w: %w", errPartial, err)
	}
	if b.Stopped {
		return admin.WithHint(err, "they stay on their old store; another batch moves those who were not begun")
	}
	return admin.WithHint(err, "they stay on their old store; when the cause is gone: mailferry migrate retry "+b.ID)
}

// tellFailures names those who failed and why; those with the same reason together.
func (c *cli) tellFailures(ctx context.Context, node *admin.Client, b *admin.Batch) error {
	var reasons []string // in the order in which they come
	users := map[string][]string{}
	told := 0
	for m, err := range node.Migrations().AllMoves(ctx, admin.MoveQuery{Batch: b.ID, Failed: true}) {
		if err != nil {
			return err
		}
		if told++; told > maxShownFailures {
			break
		}
		// What is said of a user is often said of all, but for the name.
		reason := strings.ReplaceAll(m.Reason, strconv.Quote(m.User), "USER")
		if users[reason] == nil {
			reasons = append(reasons, reason)
		}
		users[reason] = append(users[reason], m.User)
	}
	for _, r := range reasons {
		names := users[r]
		if len(names) == 1 {
			r = strings.ReplaceAll(r, "USER", strconv.Quote(names[0]))
		}
		fmt.Fprintf(c.stderr, "%s: %s\n", strings.Join(names, ", "), r)
	}
	if told > maxShownFailures {
		fmt.Fprintf(c.stderr, "and %d more: mailferry migrate show %s --failed\n", b.Failed-maxShownFailures, b.ID)
	}
	return nil
}

// silent is for those who read JSON.
type silent struct{}

func (silent) show(*admin.Batch) {}
func (silent) end()              {}

// lines is for logs and scripts: a line for each change of a user's state, in
// larger batches only for failures, and one for the whole every ten seconds.
type lines struct {
	out    io.Writer
	now    func() time.Time
	states map[string]string // by user, of those who are not done
	told   time.Time
	waits  string
}

const (
	linesInterval = 10 * time.Second
	// In a batch with more users only failures have lines of their own.
	chattyUsers = 100
)

func (l *lines) show(b *admin.Batch) {
	for i := range b.Moves {
		m := &b.Moves[i]
		if l.states[m.User] == m.State || b.Users > chattyUsers && !m.Failed {
			continue
		}
		if m.State == "listed" && m.Reason == "" { // so they all begin
			continue
		}
		l.states[m.User] = m.State
		fmt.Fprintf(l.out, "%s %s %d/%d messages %s", m.User, m.State, m.MessagesDone, m.Messages, bytesText(m.BytesDone))
		if m.Reason != "" {
			fmt.Fprintf(l.out, ": %s", m.Reason)
		}
		fmt.Fprintln(l.out)
	}
	if b.Waits != l.waits {
		if l.waits = b.Waits; b.Waits != "" {
			fmt.Fprintln(l.out, waitsText(b))
		}
	}
	now := l.now()
	if l.told.IsZero() { // the first is due in ten seconds
		l.told = now
	}
	if b.Done || now.Sub(l.told) < linesInterval {
		return
	}
	l.told = now
	fmt.Fprintf(l.out, "%s: %d of %d users, %s\n", b.ID, b.Ended(), b.Users, paceText(b))
}

func (l *lines) end() {}

// waitsText says what a batch waits for.
func waitsText(b *admin.Batch) string {
	if b.Paused {
		return fmt.Sprintf("%s pauses: %s; go on with: mailferry migrate resume %s", b.ID, b.Waits, b.ID)
	}
	return fmt.Sprintf("%s waits: %s", b.ID, b.Waits)
}

// paceText is how far a batch is, how fast it goes, and when it is done.
func paceText(b *admin.Batch) string {
	text := fmt.Sprintf("%.0f %%, %d messages, %s", 100*b.Share, b.MessagesDone, bytesText(b.BytesDone))
	if b.Rate > 0 {
		text += ", " + rateText(b.Rate)
	}
	if b.Left > 0 && !b.Paused && !b.Done {
		text += ", " + leftText(b.Left) + " left"
	}
	if b.Failed > 0 {
		text += fmt.Sprintf(", %d failed", b.Failed)
	}
	return text
}

// leftText is a duration as exactly as it can be known.
func leftText(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%.1f days", d.Hours()/24)
	case d >= time.Hour:
		return fmt.Sprintf("%d h %02d min", int(d.Hours()), int(d.Minutes())%60)
	case d >= time.Minute:
		return fmt.Sprintf("%d min", int(d.Round(time.Minute).Minutes()))
	}
	return fmt.Sprintf("%d s", int(d.Round(time.Second).Seconds()))
}
