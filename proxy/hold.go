package proxy

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"mailferry/backend"
)

// reportLimit bounds a word to the placement table.
const reportLimit = 5 * time.Second

// refusalsBeforeBye: a session whose command is too long for a hold gets BYE at
// the third one.
const refusalsBeforeBye = 3

// freeze brings all of a user to rest and confirms the hold: once, also when
// nothing of the user is here.
func (p *Proxy) freeze(u *user, pl backend.Placement, sessions []*session) {
	c := backend.Confirmation{Node: p.o.Node, User: pl.User, Epoch: pl.Epoch}
	type answer struct {
		closing reason
		refused string
		gone    bool
	}
	answers := make([]answer, len(sessions))
	var wg sync.WaitGroup
	for i, s := range sessions {
		wg.Go(func() { answers[i].closing, answers[i].refused, answers[i].gone = s.freeze() })
	}
	logins, deliveries := p.reg.quiesce(u, p.o.CommandLimit)
	wg.Wait()
	for _, a := range answers {
		switch {
		case a.gone:
		case a.refused != "":
			c.Refused = a.refused
		case a.closing != "":
			c.Closing++
		default:
			c.Frozen++
		}
	}
	if logins+deliveries > 0 {
		c.Refused = cmp.Or(c.Refused, fmt.Sprintf("%d logins and %d deliveries did not end in %s", logins, deliveries, p.o.CommandLimit))
	}
	result := "confirmed"
	if c.Refused != "" {
		result = "refused"
	}
	p.metrics.holds.WithLabelValues(result).Inc()
	p.log.Info("hold", "user", pl.User, "epoch", pl.Epoch, "frozen", c.Frozen, "closing", c.Closing, "refused", c.Refused)
	ctx, cancel := context.WithTimeout(p.ctx, reportLimit)
	defer cancel()
	if err := p.o.Placements.Confirm(ctx, c); err != nil {
		p.log.Warn("hold could not be confirmed", "user", pl.User, "epoch", pl.Epoch, "error", err)
	}
}

// freeze brings one session to rest: closing is why it will get BYE should the
// user move, refused why it cannot rest now. gone: it has ended.
func (s *session) freeze() (closing reason, refused string, gone bool) {
	rest := make(chan struct{})
	var out output
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		<-s.done
		return "", "", true
	}
	s.frozen, s.held = rest, time.Now()
	if s.tr.stays() && s.refusals+1 >= refusalsBeforeBye {
		s.tr.stop() // it has had its time to end by itself
	}
	s.tr.hold(&out)
	l := s.leg
	s.mu.Unlock()
	s.carryOut(l, &out)
	if !s.restsIn(rest, s.p.o.CommandLimit) {
		s.mu.Lock()
		late := s.tr.late()
		s.mu.Unlock()
		if late != "" {
			return s.refuse(late)
		}
		// Only our own questions are open.
		if !s.restsIn(rest, s.p.o.ViewLimit) {
			return s.refuse("the store does not answer " + s.openStep())
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return "", "", true
	}
	if s.tr.stays() {
		s.part()
		return "", "", true
	}
	s.refusals = 0
	return s.tr.verdict(), "", false
}

// part closes a session at rest that a move cannot wait for, and returns when
// the store has ended it: what a store does at the end of a session is done
// then. The caller holds mu.
func (s *session) part() {
	ended := make(chan struct{})
	s.frozen = ended
	l := s.leg
	s.mu.Unlock()
	s.p.metrics.closes.WithLabelValues(string(reasonTransaction)).Inc()
	s.log.Info("session closed for a move", "reason", reasonTransaction)
	s.lockClient()
	write(s.client.Conn, closeLimit, [][]byte{[]byte(s.proto.goodbye("UNAVAILABLE", "Your mailbox is being moved, please log in again"))})
	s.clientW.Unlock()
	closeWrite(l.Conn)
	if !s.restsIn(ended, closeLimit) {
		l.Close()
		<-s.done
	}
	s.mu.Lock()
}

// openStep names the step that is open.
func (s *session) openStep() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tr.openStep()
}

func (s *session) restsIn(rest <-chan struct{}, limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-rest:
		return true
	case <-timer.C:
		return false
	}
}

// refuse counts a hold that this session has spoilt. At the third one the
// session is closed instead, so that its user can move.
func (s *session) refuse(what string) (closing reason, refused string, gone bool) {
	s.mu.Lock()
	s.refusals++
	last := s.refusals >= refusalsBeforeBye
	s.mu.Unlock()
	if last {
		s.closeFor(reasonBusy)
		<-s.done
		return "", "", true
	}
	return "", fmt.Sprintf("session %s: %s runs for more than %s", s.id, what, s.p.o.CommandLimit), false
}

// closeFor says BYE to a session that cannot be carried over.
func (s *session) closeFor(r reason) {
	s.p.metrics.closes.WithLabelValues(string(r)).Inc()
	s.log.Info("session closed for a move", "reason", r)
	s.bye("UNAVAILABLE", "Your mailbox has moved, please log in again")
}

// attachParallel bounds connections opened at the same time for one user.
const attachParallel = 16

// thaw lets a user go on after a hold: on the new store, or on the old one when
// the hold was taken back, and reports.
func (p *Proxy) thaw(u *user, pl backend.Placement, sessions []*session) {
	rep := backend.Resumption{Node: p.o.Node, User: pl.User, Epoch: pl.Epoch}
	route, rerr := p.routeOf(pl)
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, attachParallel)
	for _, s := range sessions {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			end, why, pause := s.thaw(route, rerr)
			if end == "" {
				return
			}
			p.metrics.thaws.WithLabelValues(end).Inc()
			p.metrics.pause.Observe(pause.Seconds())
			mu.Lock()
			defer mu.Unlock()
			rep.Pauses = append(rep.Pauses, pause)
			switch end {
			case endAttached:
				rep.Attached++
			case endResumed:
				rep.Resumed++
			default:
				rep.Closed++
				rep.Reasons = append(rep.Reasons, string(why))
			}
		})
	}
	wg.Wait()
	p.reg.mu.Lock()
	rep.Pauses = append(rep.Pauses, u.pauses...)
	u.pauses = nil
	p.reg.mu.Unlock()
	if len(rep.Pauses) > 0 {
		p.log.Info("hold is over", "user", pl.User, "epoch", pl.Epoch, "store", pl.Store, "attached", rep.Attached,
			"resumed", rep.Resumed, "closed", rep.Closed)
	}
	ctx, cancel := context.WithTimeout(p.ctx, reportLimit)
	defer cancel()
	if err := p.o.Placements.Resumed(ctx, rep); err != nil {
		p.log.Warn("end of a hold could not be reported", "user", pl.User, "epoch", pl.Epoch, "error", err)
	}
}

// Ends of a hold for a session.
const (
	endAttached = "attached"
	endResumed  = "resumed"
	endClosed   = "closed"
)

// thaw ends the hold of one session; end is empty for one that was not held,
// or has ended.
func (s *session) thaw(route backend.Route, rerr error) (end string, why reason, pause time.Duration) {
	s.mu.Lock()
	held, closing := !s.held.IsZero(), s.closing
	same := rerr == nil && s.route.Store == route.Store && s.route.Host == route.Host
	since := s.held
	s.held = time.Time{}
	s.mu.Unlock()
	switch {
	case closing:
		return "", "", 0
	case same && !held:
		return "", "", 0
	case same:
		s.goOn()
		return endResumed, "", time.Since(since)
	case !held: // the hold passed us by: a session must not stay at the old store
		since = time.Now()
		if _, refused, gone := s.freeze(); gone {
			return "", "", 0
		} else if refused != "" {
			s.closeFor(reasonBusy)
			return endClosed, reasonBusy, time.Since(since)
		}
	}
	if rerr != nil {
		why = reasonConnect
	} else {
		why = s.attach(route)
	}
	if why != "" {
		s.closeFor(why)
		return endClosed, why, time.Since(since)
	}
	s.mu.Lock()
	s.held = time.Time{}
	s.mu.Unlock()
	return endAttached, "", time.Since(since)
}

// goOn resumes on the connection that the session has.
func (s *session) goOn() {
	var out output
	s.mu.Lock()
	s.frozen = nil
	s.tr.release(&out)
	l := s.leg
	s.mu.Unlock()
	s.carryOut(l, &out)
}
