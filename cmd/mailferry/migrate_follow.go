package main

import (
	"context"
	"fmt"
	"io"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"mailferry/internal/admin"
)

// progress shows a batch that runs.
type progress interface {
	show(b *admin.Batch)
	end()
}

// follow shows a batch until it is done, then what failed.
func (c *cli) follow(ctx context.Context, node *admin.Client, id string) error {
	var view progress = &lines{out: c.stdout, states: map[string]string{}}
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
	if err != nil {
		return err
	}
	if c.json {
		if err := c.printJSON(last); err != nil {
			return err
		}
	}
	return c.summary(&last)
}

// summary ends a batch: in words and as an exit code.
func (c *cli) summary(b *admin.Batch) error {
	failed := b.Failed()
	if !c.json {
		var messages, size int64
		for _, m := range b.Moves {
			messages, size = messages+m.MessagesDone, size+m.BytesDone
		}
		fmt.Fprintf(c.stdout, "%d of %d users done, %d messages, %s\n", len(b.Moves)-failed, len(b.Moves), messages, bytesText(size))
	}
	if failed == 0 {
		return nil
	}
	for _, m := range b.Moves {
		if m.Failed {
			fmt.Fprintf(c.stderr, "%s: %s\n", m.User, m.Reason)
		}
	}
	err := fmt.Errorf("%d of %d users failed", failed, len(b.Moves))
	if failed < len(b.Moves) {
		err = fmt.Errorf("%w: %w", errPartial, err)
	}
	return admin.WithHint(err, "they stay on their old store; when the cause is gone: mailferry migrate retry "+b.ID)
}

// silent is for those who read JSON.
type silent struct{}

func (silent) show(*admin.Batch) {}
func (silent) end()              {}

// lines prints each change of a state, for logs and scripts.
type lines struct {
	out    io.Writer
	states map[string]string // by user
}

func (l *lines) show(b *admin.Batch) {
	for _, m := range b.Moves {
		if l.states[m.User] == m.State {
			continue
		}
		l.states[m.User] = m.State
		fmt.Fprintf(l.out, "%s %s %d/%d messages %s", m.User, m.State, m.MessagesDone, m.Messages, bytesText(m.BytesDone))
		if m.Reason != "" {
			fmt.Fprintf(l.out, ": %s", m.Reason)
		}
		fmt.Fprintln(l.out)
	}
}

func (l *lines) end() {}

// bars draws one bar for the batch and one for each user at work.
type bars struct {
	container *mpb.Progress
	total     *mpb.Bar
	users     map[string]*userBar
}

type userBar struct {
	bar   *mpb.Bar
	state string // read by the decorator, written by show: the batch is shown by one goroutine, drawn by another
}

func newBars(ctx context.Context, out io.Writer) *bars {
	return &bars{container: mpb.NewWithContext(ctx, mpb.WithOutput(out), mpb.WithWidth(64)), users: map[string]*userBar{}}
}

func (v *bars) show(b *admin.Batch) {
	if v.total == nil {
		v.total = v.container.AddBar(int64(len(b.Moves)), mpb.BarPriority(1<<30),
			mpb.PrependDecorators(decor.Name("users "), decor.CountersNoUnit("%d/%d")),
			mpb.AppendDecorators(decor.Elapsed(decor.ET_STYLE_GO)))
	}
	ended := int64(0)
	for i := range b.Moves {
		if v.user(&b.Moves[i]) {
			ended++
		}
	}
	v.total.SetCurrent(ended)
}

// user draws a move and reports whether it has ended.
func (v *bars) user(m *admin.Move) (ended bool) {
	u := v.users[m.User]
	ended = m.Done
	if u == nil && (ended || m.Messages == 0) {
		return ended
	}
	if u == nil || u.state != m.State && !ended {
		if u != nil {
			u.bar.Abort(true)
		}
		u = &userBar{state: m.State}
		u.bar = v.container.AddBar(m.Messages, mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(decor.Name(m.User+" "), decor.Name(m.State+" "), decor.CountersNoUnit("%d/%d")),
			mpb.AppendDecorators(decor.Percentage()))
		v.users[m.User] = u
	}
	if ended {
		u.bar.Abort(true)
		return true
	}
	u.bar.SetTotal(m.Messages, false)
	u.bar.SetCurrent(min(m.MessagesDone, m.Messages-1)) // a full bar would complete and go
	return false
}

func (v *bars) end() {
	if v.total != nil {
		v.total.Abort(false)
	}
	for _, u := range v.users {
		u.bar.Abort(true)
	}
	v.container.Wait()
}
