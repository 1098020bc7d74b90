package proxy

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"mailferry/backend"
)

// partLimit bounds how long a session that is asked to leave may take to end
// its command.
const partLimit = 30 * time.Second

// Match says which sessions are meant: those that fit every field that is set.
type Match struct {
	User     string       // canonical name
	Session  string       // id
	Store    string       // name
	Protocol string       // as in backend.Protocol
	Client   netip.Prefix // network of the client; the zero value: any
}

// fits reports whether a session is meant.
func (m *Match) fits(i *SessionInfo) bool {
	if m.Client.IsValid() {
		a, err := netip.ParseAddrPort(i.Client)
		if err != nil || !m.Client.Contains(a.Addr().Unmap().WithZone("")) {
			return false
		}
	}
	return (m.User == "" || userKey(m.User) == userKey(i.User)) && (m.Session == "" || m.Session == i.ID) &&
		(m.Store == "" || m.Store == i.Store) && (m.Protocol == "" || strings.EqualFold(m.Protocol, string(i.Protocol)))
}

// End asks the sessions that m means to end, each at its next command boundary
// and with goodbye, and returns how many there are. It does not wait for them;
// one whose command takes longer than 30 s is ended in it.
func (p *Proxy) End(m Match) int {
	n := 0
	for _, s := range p.reg.all(m.User) {
		if i := s.info(); m.fits(&i) && p.reg.leave1(s, "Disconnected by the administrator") {
			n++
		}
	}
	return n + p.lmtp.end(&m)
}

// Kick is End for a user.
func (p *Proxy) Kick(user string) int { return p.End(Match{User: user}) }

// leave1 leads one session to its end in the background; false: it is on its
// way already.
func (r *registry) leave1(s *session, text string) bool {
	s.mu.Lock()
	again := s.leaving || s.closing
	s.leaving = true
	s.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if again || r.stop {
		return false
	}
	r.wg.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), partLimit)
		defer cancel()
		s.farewell(ctx, text)
	})
	return true
}

// Drain is the emptying of a store or of the node: nobody new is let in, and
// who is there is asked to leave, so many a second. It goes on until it is
// stopped; nothing of it outlives the process.
type Drain struct {
	Store string    `json:"store,omitempty"` // empty: the whole node
	Rate  float64   `json:"rate"`            // sessions a second
	Since time.Time `json:"since"`
	Asked int       `json:"asked"` // sessions that were asked to leave
	Left  int       `json:"left"`  // sessions that are there
}

// drains are those that run.
type drains struct {
	mu   sync.Mutex
	runs map[string]*drain // by store, "" for the node
}

type drain struct {
	Drain
	cancel context.CancelFunc
}

// maxRate bounds sessions ended a second; beyond, clients come back as a storm.
const maxRate = 10_000

// Drain begins to empty a store (empty: the node), or changes the rate.
// KindInvalid: the rate is not above zero. KindNotFound: no such store.
func (p *Proxy) Drain(store string, rate float64) error {
	if !(rate > 0 && rate <= maxRate) {
		return backend.Errorf(backend.KindInvalid, "", "rate of %g sessions a second: it must be above 0 and at most %d", rate, maxRate)
	}
	if store != "" {
		st, _, err := p.o.Stores.Find(store)
		if err != nil || st.Name != store {
			return backend.Errorf(backend.KindNotFound, "", "no store is called %q", store)
		}
	}
	p.drains.mu.Lock()
	defer p.drains.mu.Unlock()
	if d := p.drains.runs[store]; d != nil {
		d.Rate = rate
		return nil
	}
	ctx, cancel := context.WithCancel(p.ctx)
	d := &drain{Drain{Store: store, Rate: rate, Since: time.Now()}, cancel}
	p.reg.mu.Lock()
	defer p.reg.mu.Unlock()
	if p.reg.stop {
		cancel()
		return backend.NewError(backend.KindUnavailable, "the node is stopping")
	}
	if p.drains.runs == nil {
		p.drains.runs = map[string]*drain{}
	}
	p.drains.runs[store] = d
	p.log.Info("drain begins", "store", store, "rate", rate)
	p.reg.wg.Go(func() { p.drains.run(ctx, p, d) })
	return nil
}

// StopDrain lets new sessions in again; false: no such drain runs. Sessions
// that were asked to leave do so.
func (p *Proxy) StopDrain(store string) bool {
	p.drains.mu.Lock()
	defer p.drains.mu.Unlock()
	d := p.drains.runs[store]
	if d == nil {
		return false
	}
	d.cancel()
	delete(p.drains.runs, store)
	p.log.Info("drain is over", "store", store, "asked", d.Asked)
	return true
}

// Drains lists those that run, by store, the node's first.
func (p *Proxy) Drains() []Drain {
	p.drains.mu.Lock()
	out := []Drain{}
	for _, d := range p.drains.runs {
		out = append(out, d.Drain)
	}
	p.drains.mu.Unlock()
	for i := range out {
		out[i].Left = len(p.within(out[i].Store))
	}
	slices.SortFunc(out, func(a, b Drain) int { return cmp.Compare(a.Store, b.Store) })
	return out
}

// Draining reports whether the node is being drained.
func (p *Proxy) Draining() bool { return p.drains.on("") }

// on reports whether a store (empty: the node) is being drained.
func (d *drains) on(store string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.runs[store] != nil
}

// within lists the sessions of a store, or all.
func (p *Proxy) within(store string) []*session {
	all := p.reg.all("")
	if store == "" {
		return all
	}
	return slices.DeleteFunc(all, func(s *session) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.route.Store.Name != store
	})
}

// Ticks of a drain: no shorter than drainTick, so that high rates end several
// sessions at a time; drainLook apart when all have been asked.
const (
	drainTick = 10 * time.Millisecond
	drainLook = time.Second
)

// run asks sessions to leave, those that rest first, until ctx ends.
func (d *drains) run(ctx context.Context, p *Proxy, dr *drain) {
	if dr.Store == "" {
		p.lmtp.end(&Match{})
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	var queue []*session
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		if len(queue) == 0 {
			queue = staying(p.within(dr.Store))
		}
		if len(queue) == 0 {
			timer.Reset(drainLook)
			continue
		}
		d.mu.Lock()
		rate := dr.Rate
		d.mu.Unlock()
		wait := max(time.Duration(float64(time.Second)/rate), drainTick)
		n := min(max(1, int(rate*wait.Seconds()+0.5)), len(queue))
		asked := 0
		for _, s := range queue[:n] {
			if p.reg.leave1(s, "Server is closed for maintenance, please connect again") {
				asked++
			}
		}
		queue = queue[n:]
		d.mu.Lock()
		dr.Asked += asked
		d.mu.Unlock()
		timer.Reset(wait)
	}
}

// staying leaves out who is on the way out, and puts those between commands first.
func staying(list []*session) []*session {
	var quiet, busy []*session
	for _, s := range list {
		s.mu.Lock()
		leaving, rests := s.leaving || s.closing, s.tr.quiet()
		s.mu.Unlock()
		switch {
		case leaving:
		case rests:
			quiet = append(quiet, s)
		default:
			busy = append(busy, s)
		}
	}
	return append(quiet, busy...)
}

// errDrained is why there is no route to a store that is being drained.
func errDrained(store string) error {
	return backend.Errorf(backend.KindUnavailable, "", "store %s is being drained", store)
}
