package migrate

import (
	"cmp"
	"context"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// hosts bounds what all batches together ask of each host of a foreign store:
// connections, logins and octets per second, as the store's configuration says,
// and users at a time, as throttle says. Safe for concurrent use.
type hosts struct {
	dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	tell    func(host string, level, most int) // of a throttle that changed
	backoff time.Duration                      // the shortest, of a host that refuses

	mu sync.Mutex
	m  map[string]*host // by store and host; guarded by mu
}

// host is one of them.
type host struct {
	name   string // the store's, with the host where it serves several
	most   int    // connections
	logins *rate.Limiter
	octets *rate.Limiter // nil: no limit

	learned remote.Learned
	reached atomic.Bool // a login went well in this process

	mu       sync.Mutex
	open     int           // connections, of whatever protocol and purpose; guarded by mu
	working  []*visitor    // in the order in which they came; guarded by mu
	throttle *throttle     // guarded by mu
	latency  latencies     // of live users; guarded by mu
	changed  chan struct{} // closed and renewed; guarded by mu
}

// visitor is a move that works on a host's user.
type visitor struct {
	open   atomic.Int32 // connections
	urgent atomic.Bool  // the user is on hold

	giveWay func() // of one who only keeps a copy hot, until it is called; guarded by the host's mu
}

// linesOf bounds the connections of all migrations to one host of a store.
func linesOf(s *backend.Store) int {
	return cmp.Or(max(s.MaxConnections, 0), remote.ProfileOf(s.Type).Connections)
}

const (
	// spare: with so many connections one is kept for second ones.
	spare = 3
	// readChunk is the most that one read takes against the limit of octets.
	readChunk = 256 << 10
)

func newHosts(dial func(context.Context, string, string) (net.Conn, error)) *hosts {
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	return &hosts{dial: dial, tell: func(string, int, int) {}, backoff: time.Second, m: map[string]*host{}}
}

func hostName(store, addr string) string {
	if addr == "" {
		return store
	}
	return store + "/" + addr
}

// of is the host of a store; addr is empty where the store has an address.
func (hs *hosts) of(s *backend.Store, addr string) *host {
	name := hostName(s.Name, addr)
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h := hs.m[name]
	if h == nil {
		h = &host{name: name, most: linesOf(s), changed: make(chan struct{}), logins: rate.NewLimiter(rate.Inf, 1)}
		if s.MaxLogins > 0 {
			h.logins = rate.NewLimiter(rate.Limit(s.MaxLogins), 1)
		}
		if s.MaxOctets > 0 {
			h.octets = rate.NewLimiter(rate.Limit(s.MaxOctets), max(readChunk, int(min(s.MaxOctets, 1<<30))))
		}
		h.throttle = newThrottle(h.most, hs.backoff, rand.Float64)
		hs.m[name] = h
	}
	return h
}

// place is the right to one connection to a host.
type place struct {
	hs   *hosts
	h    *host
	v    *visitor
	once sync.Once
}

// place waits until v may open a connection to h, within all limits. It is given
// up by leave, or with the connection that dial opened.
func (hs *hosts) place(ctx context.Context, h *host, v *visitor) (*place, error) {
	if err := h.enter(ctx, v); err != nil {
		return nil, err
	}
	return &place{hs: hs, h: h, v: v}, nil
}

// further is place for one more connection of v, when there is room for it at
// once and h was never slow or short of it of late; else nil.
func (hs *hosts) further(h *host, v *visitor) *place {
	h.mu.Lock()
	defer h.mu.Unlock()
	room := h.most
	if h.most >= spare {
		room--
	}
	users, from := h.throttle.allowed()
	if h.open >= room || users < h.throttle.most || !time.Now().After(from) {
		return nil
	}
	h.takeLocked(v)
	return &place{hs: hs, h: h, v: v}
}

func (p *place) leave() { p.once.Do(func() { p.h.leave(p.v) }) }

// dial opens the connection when the host may have one more login.
func (p *place) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if err := p.h.logins.Wait(ctx); err != nil {
		p.leave()
		return nil, err
	}
	c, err := p.hs.dial(ctx, network, addr)
	if err != nil {
		p.leave()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // a read goes on behind the dial
	return &hostConn{Conn: c, place: p, ctx: ctx, cancel: cancel}, nil
}

// enter waits for a connection to be free. A move that has one may take the last
// one as well, which others leave free, where there are few one more than the
// limit: so nobody waits for a second connection while all are held by those who
// wait. Hot copies give way to whoever else waits: they would hold their
// connections for as long as nothing changes.
func (h *host) enter(ctx context.Context, v *visitor) error {
	for {
		h.mu.Lock()
		again, ok := h.roomLocked(time.Now(), v)
		if ok {
			h.takeLocked(v)
			h.mu.Unlock()
			return nil
		}
		if again.IsZero() && v.giveWay == nil {
			h.clearLocked()
		}
		changed := h.changed
		h.mu.Unlock()
		if await(ctx, changed, again); ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

func (h *host) takeLocked(v *visitor) {
	h.open++
	if v.open.Add(1) == 1 {
		h.working = append(h.working, v)
	}
}

func (h *host) roomLocked(now time.Time, v *visitor) (again time.Time, ok bool) {
	users, from := h.throttle.allowed()
	limit := h.most
	switch second := v.open.Load() > 0; {
	case second && h.most < spare:
		limit++
	case !second && !v.urgent.Load() && h.most >= spare:
		limit--
	}
	if h.open >= limit {
		return time.Time{}, false
	}
	if v.urgent.Load() || v.open.Load() > 0 {
		return time.Time{}, true
	}
	if now.Before(from) {
		return from, false
	}
	return time.Time{}, len(h.working) < users
}

func (h *host) leave(v *visitor) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open--
	if v.open.Add(-1) == 0 {
		if i := slices.Index(h.working, v); i >= 0 {
			h.working = slices.Delete(h.working, i, i+1)
		}
	}
	h.wake()
}

// wake wakes those who wait; callers hold mu.
func (h *host) wake() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// keepsHot notes that v only keeps a copy hot, so that others come first: giveWay
// is called once, with h locked, when somebody waits for what v holds. A nil
// giveWay ends that.
func (h *host) keepsHot(v *visitor, giveWay func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v.giveWay = giveWay
	h.wake() // who waits may ask v
}

// clearLocked asks the hot copy that came last to give way.
func (h *host) clearLocked() {
	for _, v := range slices.Backward(h.working) {
		if v.giveWay != nil {
			v.giveWay()
			v.giveWay = nil
			return
		}
	}
}

// tooMany reports that v has to rest: so many users are too many for the host now,
// and v came late. If there are hot copies among them, one is asked to give way.
func (h *host) tooMany(v *visitor) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	users, _ := h.throttle.allowed()
	i := slices.Index(h.working, v)
	if i < users || v.urgent.Load() {
		return false
	}
	if v.giveWay == nil {
		h.clearLocked()
	}
	return true
}

// rest waits as long as tooMany holds.
func (h *host) rest(ctx context.Context, v *visitor) error {
	for h.tooMany(v) {
		h.mu.Lock()
		changed := h.changed
		h.mu.Unlock()
		await(ctx, changed, time.Now().Add(time.Second))
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// outcome takes the outcome of a dial with its login, or of work on a connection;
// it reports whether the host refused for want of room.
func (hs *hosts) outcome(h *host, err error) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if err == nil {
		h.reached.Store(true)
		h.throttle.served(now)
		return false
	}
	room, asked := refusal(err, len(h.working) > 1)
	if room {
		h.throttle.refused(now, len(h.working), asked)
		hs.told(h)
	}
	return room
}

// told hands the state of h's throttle on; callers hold h.mu.
func (hs *hosts) told(h *host) {
	users, _ := h.throttle.allowed()
	hs.tell(h.name, users, h.throttle.most)
}

// observe takes how long a live user waited for a store's answer. It costs some
// ten nanoseconds.
func (hs *hosts) observe(store, addr string, d time.Duration) {
	name := hostName(store, addr)
	hs.mu.Lock()
	h := hs.m[name]
	hs.mu.Unlock()
	if h == nil { // nobody moves away from it
		return
	}
	h.mu.Lock()
	h.latency.add(time.Now(), d)
	h.mu.Unlock()
}

// tick has every throttle look at its users.
func (hs *hosts) tick(now time.Time) {
	hs.mu.Lock()
	list := make([]*host, 0, len(hs.m))
	for _, h := range hs.m {
		list = append(list, h)
	}
	hs.mu.Unlock()
	for _, h := range list {
		h.mu.Lock()
		was, _ := h.throttle.allowed()
		h.throttle.users(now, h.latency.p95(now), len(h.working))
		if is, _ := h.throttle.allowed(); is != was {
			hs.told(h)
			h.wake()
		}
		h.mu.Unlock()
	}
}

// latencies are the last ones of live users.
type latencies struct {
	ring [512]struct {
		at time.Time
		d  time.Duration
	}
	n int // ever
}

const (
	latencySpan = 20 * time.Second
	fewSamples  = 20
)

func (l *latencies) add(now time.Time, d time.Duration) {
	s := &l.ring[l.n%len(l.ring)]
	s.at, s.d = now, d
	l.n++
}

// p95 is that of the last seconds, in seconds; NaN when too few were seen.
func (l *latencies) p95(now time.Time) float64 {
	list := make([]time.Duration, 0, len(l.ring))
	for i := range min(l.n, len(l.ring)) {
		if now.Sub(l.ring[i].at) <= latencySpan {
			list = append(list, l.ring[i].d)
		}
	}
	if len(list) < fewSamples {
		return math.NaN()
	}
	slices.Sort(list)
	return list[len(list)*95/100].Seconds()
}

// hostConn gives its place back when it is closed, and reads no faster than the
// host's limit.
type hostConn struct {
	net.Conn
	place  *place
	ctx    context.Context // ended by Close
	cancel context.CancelFunc
}

// NetConn is the connection below.
func (c *hostConn) NetConn() net.Conn { return c.Conn }

func (c *hostConn) Read(p []byte) (int, error) {
	limit := c.place.h.octets
	if limit == nil {
		return c.Conn.Read(p)
	}
	if len(p) > readChunk {
		p = p[:readChunk]
	}
	n, err := c.Conn.Read(p)
	if n > 0 {
		if e := limit.WaitN(c.ctx, n); e != nil && err == nil {
			err = net.ErrClosed
		}
	}
	return n, err
}

func (c *hostConn) Close() error {
	c.cancel()
	c.place.leave()
	return c.Conn.Close()
}
