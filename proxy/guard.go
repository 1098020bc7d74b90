package proxy

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"math"
	"net"
	"net/netip"
	"sync"
	"time"

	"mailferry/backend"
)

// guard slows down those who guess passwords, keeps the directory from being
// made to lock users out, and counts connections by address. Safe for
// concurrent use.
type guard struct {
	perAddress int // connections; 0: any number
	perHour    int // failed checks of a user's password; 0: any number

	mu     sync.Mutex
	open   map[string]int // connections by address
	scores map[string]score
	users  map[string]*shield
	key    [32]byte // of remembered passwords
}

// score is a number of failures that decays by half each scoreHalf.
type score struct {
	n    float64
	last time.Time
}

// shield is what is known of a user's password checks.
type shield struct {
	failed []time.Time // within the last hour
	good   [32]byte    // of the password that was right last, keyed
	known  bool
}

// Penalty: a pair of address and name waits from its third failure on, an
// address, which many may share, from its twentieth; each further failure
// doubles the wait.
const (
	scoreHalf    = 5 * time.Minute
	freeOfPair   = 2
	freeOfPrefix = 19
	minPenalty   = time.Second
	maxPenalty   = 15 * time.Second
	maxGuarded   = 100_000 // records of each kind
	shieldTime   = time.Hour
)

func newGuard(o *Options) *guard {
	g := &guard{perAddress: o.MaxPerAddress, perHour: o.MaxFailures, open: map[string]int{}, scores: map[string]score{}, users: map[string]*shield{}}
	rand.Read(g.key[:])
	return g
}

// prefixOf names the network that one party can have addresses in: an IPv4
// address, an IPv6 /64. Empty: the loopback interface, which is not guarded.
func prefixOf(a net.Addr) string {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return ""
	}
	ip, ok := netip.AddrFromSlice(t.IP)
	if ip = ip.Unmap(); !ok || ip.IsLoopback() {
		return ""
	}
	if ip.Is6() {
		p, _ := ip.Prefix(64)
		return p.String()
	}
	return ip.String()
}

// enter counts a connection; false: its address has too many.
func (g *guard) enter(prefix string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if prefix == "" || g.perAddress == 0 {
		return true
	}
	if g.open[prefix] >= g.perAddress {
		return false
	}
	g.open[prefix]++
	return true
}

func (g *guard) leave(prefix string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open[prefix]--; g.open[prefix] <= 0 {
		delete(g.open, prefix)
	}
}

// penalty is how long an attempt has to wait.
func (g *guard) penalty(prefix, name string) time.Duration {
	if prefix == "" {
		return 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	over := max(g.score(prefix+"\x00"+name)-freeOfPair, g.score(prefix)-freeOfPrefix)
	if over < 0.5 { // a failure that is not a minute old counts whole
		return 0
	}
	return min(maxPenalty, time.Duration(float64(minPenalty)*math.Exp2(math.Round(over)-1)))
}

func (g *guard) score(key string) float64 {
	s, ok := g.scores[key]
	if !ok {
		return 0
	}
	return s.n * math.Exp2(-float64(time.Since(s.last))/float64(scoreHalf))
}

// failed counts a wrong password; right resets the pair, not the address.
func (g *guard) failed(prefix, name string) {
	if prefix == "" {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, key := range []string{prefix, prefix + "\x00" + name} {
		g.scores[key] = score{g.score(key) + 1, time.Now()}
	}
	if len(g.scores) > maxGuarded {
		forget(g.scores, func(key string) bool { return g.score(key) < 0.5 })
	}
}

func (g *guard) right(prefix, name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.scores, prefix+"\x00"+name)
}

// forget drops what is worth nothing any more, and half of the rest where that
// is not enough: memory is bounded whatever comes.
func forget[T any](m map[string]T, old func(key string) bool) {
	for key := range m {
		if old(key) {
			delete(m, key)
		}
	}
	for key := range m {
		if len(m) <= maxGuarded/2 {
			return
		}
		delete(m, key)
	}
}

// mayCheck reports whether a password of a user may be shown to whoever checks
// it. After perHour failures within an hour only the one that was right last
// may: the user goes on, and a guesser locks nobody out.
func (g *guard) mayCheck(user string, password backend.Secret) bool {
	if g.perHour == 0 {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.users[userKey(user)]
	if s == nil {
		return true
	}
	s.age()
	return len(s.failed) < g.perHour || s.known && s.good == g.hash(user, password)
}

// checked tells the outcome of a check.
func (g *guard) checked(user string, password backend.Secret, right bool) {
	if g.perHour == 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	key := userKey(user)
	s := g.users[key]
	if s == nil {
		s = &shield{}
		g.users[key] = s
	}
	h := g.hash(user, password)
	switch {
	case right:
		s.good, s.known = h, true
	case s.known && s.good == h:
		s.known = false // it was changed
		fallthrough
	default:
		s.age()
		s.failed = append(s.failed, time.Now())
	}
	if len(g.users) > maxGuarded {
		forget(g.users, func(key string) bool { g.users[key].age(); return len(g.users[key].failed) == 0 })
	}
}

func (s *shield) age() {
	for len(s.failed) > 0 && time.Since(s.failed[0]) >= shieldTime {
		s.failed = s.failed[1:]
	}
}

func (g *guard) hash(user string, password backend.Secret) (sum [32]byte) {
	h := hmac.New(sha256.New, g.key[:])
	h.Write([]byte(userKey(user) + "\x00" + password.Reveal()))
	h.Sum(sum[:0])
	return sum
}
