package proxy

import (
	"sync/atomic"
	"time"
)

// probe measures how long a session waits for the first octet of an answer, for
// one in latencyShare of the commands that are sent when nothing else is open.
type probe struct {
	commands uint32       // of the goroutine up
	sent     atomic.Int64 // when the measured command was sent, in Unix nanoseconds; 0: none is
}

const latencyShare = 8

// begin counts a command that is about to be sent to a backend that owes nothing;
// it reports whether this one is measured.
func (p *probe) begin() bool {
	p.commands++
	return p.commands%latencyShare == 1
}

// answered tells of the first octets after a measured command.
func (s *session) answered() {
	at := s.probe.sent.Swap(0)
	if at == 0 {
		return
	}
	s.mu.Lock()
	store, host := s.route.Store.Name, s.route.Host
	s.mu.Unlock()
	s.p.o.Latency(store, host, time.Duration(time.Now().UnixNano()-at))
}
