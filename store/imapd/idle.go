package imapd

import (
	"context"
	"errors"
	"strings"
	"sync"

	"mailferry/internal/line"
)

// runIdle: RFC 2177. A second goroutine waits for the store and wakes the
// session, which alone reads and writes the connection.
func runIdle(ctx context.Context, s *session, c *call) error {
	if !c.d.ExpectEnd() {
		return c.d.Err()
	}
	s.enc.Text("+ idling\r\n")
	stop := s.wakeOnChange()
	defer stop()
	for {
		// What has happened up to now; the watch wakes for what follows.
		if s.view != nil {
			if err := s.reportChanges(ctx, true, true); err != nil {
				s.log.Warn("cannot read changes of the mailbox", "err", err)
			}
		}
		if err := s.conn.Flush(); err != nil {
			s.done = true
			return errAnswered
		}
		again, err := s.idleWait()
		if !again {
			return err
		}
	}
}

// idleWait waits for a wake-up (again), or for the end of IDLE.
func (s *session) idleWait() (again bool, err error) {
	l := s.server.o.Limits
	err = s.conn.Wait(l.KeepAlive, l.Command)
	switch {
	case errors.Is(err, line.ErrWoken):
		if !s.conn.Stopping() {
			return true, nil
		}
		s.bye("UNAVAILABLE", "Server is shutting down")
		return false, errAnswered
	case errors.Is(err, line.ErrIdle):
		// Without an end: a client that is gone is found out by the writes.
		s.enc.Text("* OK Still here\r\n")
		return true, nil
	case err != nil:
		s.done = true
		return false, errAnswered
	}
	done, err := s.conn.ReadLine(line.PreLogin.Line)
	if err != nil {
		s.done = true
		return false, errAnswered
	}
	if !strings.EqualFold(strings.TrimSpace(string(done)), "DONE") {
		return false, bad("DONE expected")
	}
	return false, nil
}

// wakeOnChange wakes the session whenever the selected mailbox changes, until
// the returned function is called, which waits for the goroutine's end.
func (s *session) wakeOnChange() (stop func()) {
	if s.view == nil {
		return func() {}
	}
	changed := s.view.watch.C
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-quit:
				return
			case <-changed:
				s.conn.Wake()
			}
		}
	})
	return func() {
		close(quit)
		wg.Wait()
	}
}
