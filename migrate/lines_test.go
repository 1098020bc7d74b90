package migrate

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"mailferry/backend/remote"
)

// impatient is a rule that adds a connection whenever it is asked.
var impatient = lineRule{look: 0, gain: 0, most: 4}

// TestSeveralConnectionsPerMailbox: every message comes over once, whichever
// connection brings it; no more connections are opened than there may be.
func TestSeveralConnectionsPerMailbox(t *testing.T) {
	h := startHostile(t, &hostile{boxes: []*hostileBox{filled("INBOX", 4000)}})
	dialled, open, most := atomic.Int64{}, atomic.Int64{}, int64(0)
	fs := newFakeStore()
	a := h.account(fs)
	defer a.close()
	dial := a.dial
	a.dial = func(ctx context.Context) (*remote.Client, error) { dialled.Add(1); return dial(ctx) }
	a.lines = impatient
	a.another = func() (dialer, func(), bool) {
		if open.Load() == 2 {
			return nil, nil, false
		}
		most = max(most, open.Add(1))
		return a.dial, func() { open.Add(-1) }, true
	}
	synced(t, a)
	b := fs.box(t, "anna", "INBOX")
	if len(b.msgs) != 4000 || fs.puts != 4000 {
		t.Errorf("%d messages, %d put", len(b.msgs), fs.puts)
	}
	for uid, m := range b.msgs {
		if string(m.data) != h.boxes[0].msgs[uid-1].body {
			t.Fatalf("UID %d is another message", uid)
		}
	}
	// Whether there is a second one depends on how soon the first has done all.
	if most < 1 || most > 2 || dialled.Load() > 3 || open.Load() != 0 {
		t.Errorf("%d further connections at most, %d dialled, %d left open", most, dialled.Load(), open.Load())
	}
	if err := a.compare(t.Context(), false); err != nil {
		t.Error(err)
	}
}

// TestFurtherConnectionBreaks: what a further connection was asked for and did
// not bring comes over the first one.
func TestFurtherConnectionBreaks(t *testing.T) {
	for _, at := range []string{"LOGIN", "EXAMINE", "UID FETCH"} {
		t.Run(at, func(t *testing.T) {
			h := startHostile(t, &hostile{boxes: []*hostileBox{filled("INBOX", 3000)}})
			h.bend = func(conn int, line string, answer []string) []string {
				if conn > 1 && strings.HasPrefix(line, at) {
					return []string{}
				}
				return answer
			}
			fs := newFakeStore()
			a := h.account(fs)
			defer a.close()
			a.lines, a.another = impatient, func() (dialer, func(), bool) { return a.dial, func() {}, true }
			synced(t, a)
			if n := len(fs.box(t, "anna", "INBOX").msgs); n != 3000 || fs.puts != 3000 || exceptionsOf(a) != "" {
				t.Errorf("%d messages, %d put, exceptions %q", n, fs.puts, exceptionsOf(a))
			}
		})
	}
}
