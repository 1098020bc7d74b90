package main

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"mailferry/internal/admin"
)

// bars draws one bar for the batch and one for each user at work.
type bars struct {
	container *mpb.Progress
	total     *shownBar
	users     map[string]*shownBar
}

// shownBar is a bar with texts on both sides, which one goroutine sets and
// another draws.
type shownBar struct {
	bar         *mpb.Bar
	left, right atomic.Pointer[string]
}

const (
	// maxBars are as many as a terminal has room for.
	maxBars = 16
	// barSteps is the length of every bar; it is not filled, or it would go.
	barSteps = 1000
)

func newBars(ctx context.Context, out io.Writer) *bars {
	return &bars{container: mpb.NewWithContext(ctx, mpb.WithOutput(out), mpb.WithWidth(40)), users: map[string]*shownBar{}}
}

func (v *bars) add(options ...mpb.BarOption) *shownBar {
	s := &shownBar{}
	s.set("", "", 0)
	text := func(p *atomic.Pointer[string]) decor.Decorator {
		return decor.Any(func(decor.Statistics) string { return *p.Load() })
	}
	s.bar = v.container.AddBar(barSteps, append(options, mpb.PrependDecorators(text(&s.left)), mpb.AppendDecorators(text(&s.right)))...)
	return s
}

func (s *shownBar) set(left, right string, share float64) {
	s.left.Store(&left)
	s.right.Store(&right)
	if s.bar != nil {
		s.bar.SetCurrent(int64(min(max(share, 0), 0.999) * barSteps))
	}
}

func (v *bars) show(b *admin.Batch) {
	if v.total == nil {
		v.total = v.add(mpb.BarPriority(1 << 30))
	}
	for i := range b.Moves {
		v.user(&b.Moves[i])
	}
	right := " " + paceText(b)
	if b.Waits != "" {
		right = " " + waitsText(b)
	}
	left := fmt.Sprintf("%d/%d users ", b.Ended(), b.Users)
	if b.Waves > 1 {
		left = fmt.Sprintf("wave %d/%d, %s", b.Wave, b.Waves, left)
	}
	v.total.set(left, right, b.Share)
}

// user draws a move as long as it is at work.
func (v *bars) user(m *admin.Move) {
	u := v.users[m.User]
	if !m.Running || m.Done {
		if u != nil {
			u.bar.Abort(true)
			delete(v.users, m.User)
		}
		return
	}
	if u == nil {
		if m.Messages == 0 || len(v.users) >= maxBars {
			return
		}
		u = v.add(mpb.BarRemoveOnComplete())
		v.users[m.User] = u
	}
	right := fmt.Sprintf(" %d/%d messages %s", m.MessagesDone, m.Messages, rateText(m.Rate))
	if left := m.Bytes - m.BytesDone; m.Rate > 0 && left > 0 && m.Tries == 0 {
		right += ", " + leftText(time.Duration(float64(left)/m.Rate*float64(time.Second))) + " left"
	}
	share := 1.0
	if m.Messages > 0 {
		share = float64(m.MessagesDone) / float64(m.Messages)
	}
	u.set(fmt.Sprintf("%s %s ", m.User, m.State), right, share)
}

func (v *bars) end() {
	if v.total != nil {
		v.total.bar.Abort(false)
	}
	for _, u := range v.users {
		u.bar.Abort(true)
	}
	v.container.Wait()
}
