package imapd_test

import (
	"context"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"mailferry/cluster/engine"
)

// views counts the views of the store: those opened, and those open now.
type views struct {
	engine.Engine
	opened, open atomic.Int64
	fail         atomic.Bool // the next one cannot be had
}

func (v *views) Shard(id engine.ShardID) (engine.Shard, error) {
	sh, err := v.Engine.Shard(id)
	return viewedShard{sh, v}, err
}

type viewedShard struct {
	engine.Shard
	views *views
}

func (s viewedShard) View(ctx context.Context) (engine.View, error) {
	if s.views.fail.Swap(false) {
		return nil, engine.ErrNotLeader
	}
	v, err := s.Shard.View(ctx)
	if err != nil {
		return nil, err
	}
	s.views.opened.Add(1)
	s.views.open.Add(1)
	return openView{v, s.views}, nil
}

type openView struct {
	engine.View
	views *views
}

func (v openView) Close() error {
	v.views.open.Add(-1)
	return v.View.Close()
}

// TestSlowClientHoldsNoView: while a client does not read, no view of the store
// is open on its behalf.
func TestSlowClientHoldsNoView(t *testing.T) {
	for _, cmd := range []string{"SELECT INBOX (QRESYNC (VALIDITY 1))", "FETCH 1:* (UID FLAGS BODY.PEEK[])", "FETCH 1:* (FLAGS ENVELOPE BODYSTRUCTURE)",
		"STORE 1:* +FLAGS (\\Seen a-keyword-that-is-long-enough-to-fill-the-buffers-of-the-connection)"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			c := w.login()
			for range 3 {
				c.raw("x APPEND INBOX")
				for range 500 {
					c.raw(" {" + strconv.Itoa(len(mail("x"))) + "+}\r\n" + mail("x"))
				}
				c.raw("\r\n")
				c.until("x")
			}
			c.ok("ENABLE QRESYNC")
			validity := number(t, c.ok("SELECT INBOX"), "UIDVALIDITY ")
			c.send("y %s", strings.ReplaceAll(cmd, "VALIDITY", strconv.FormatUint(validity, 10)))
			synctest.Wait()
			if n := w.views.open.Load(); n != 0 {
				t.Errorf("%s: %d views are open", cmd, n)
			}
			c.until("y")
			c.nc.Close()
			synctest.Wait()
		})
	}
}

// TestWakeUpSurvivesTrouble: what could not be read at one command is told with
// the next.
func TestWakeUpSurvivesTrouble(t *testing.T) {
	w := newWorld(t)
	c := w.filled(1)
	c.ok("SELECT INBOX")
	d := w.login()
	d.append("INBOX", "", mail("new"))
	w.views.fail.Store(true)
	c.is("CAPABILITY ", "CAPABILITY")
	if u := strings.Join(c.ok("CAPABILITY"), "|"); !strings.Contains(u, "2 EXISTS") {
		t.Errorf("the second command told %s", u)
	}
}

// TestStoreLooksOnce: a STORE that nobody interferes with opens one view.
func TestStoreLooksOnce(t *testing.T) {
	w := newWorld(t)
	c := w.filled(3)
	c.ok("SELECT INBOX")
	for _, cmd := range []string{`STORE 1:2 +FLAGS (\Seen)`, `STORE 1:2 +FLAGS (Work)`, `STORE 3 -FLAGS.SILENT (Work)`, `STORE 3 +FLAGS.SILENT (\Flagged)`} {
		before := w.views.opened.Load()
		c.ok("%s", cmd)
		if n := w.views.opened.Load() - before; n > 1 {
			t.Errorf("%s: %d views", cmd, n)
		}
		c.is("OK", "NOOP")
	}
}
