package proxy

import (
	"context"
	"testing"
	"testing/synctest"
)

func TestShutdown(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		c, b := w.selected("anna", 1)
		c.sendLine("a FETCH 1 BODY[]")
		b.expect("a FETCH")
		b.send("* 1 FETCH (BODY[] {5}\r\nab")
		idler, i := w.login("anna")
		w.ask(idler, i, "i IDLE", "+ idling")
		early := w.client()
		done := make(chan error)
		go func() { done <- w.p.Shutdown(context.Background()) }()
		early.expect("* BYE")
		idler.expect("* BYE")
		synctest.Wait()
		c.sendLine("b NOOP") // not taken any more
		b.send("cde)\r\na OK done\r\n")
		for _, l := range []string{"* 1 FETCH", "abcde)", "a OK", "* BYE"} {
			c.expect(l)
		}
		c.end()
		b.end()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestKickAndSessions(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		c, _ := w.selected("anna", 1)
		w.login("bernd")
		if l := w.p.Sessions(Match{}); len(l) != 2 {
			t.Errorf("%d sessions", len(l))
		}
		if n := w.p.Kick("Anna"); n != 1 {
			t.Errorf("%d kicked", n)
		}
		c.expect("* BYE")
		c.end()
		c.Close()
		synctest.Wait()
		if l := w.p.Sessions(Match{}); len(l) != 1 || l[0].User != "bernd" || l[0].Store != "old" {
			t.Errorf("left: %+v", l)
		}
	})
}
