package directory

import (
	"crypto/rand"
	"crypto/subtle"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/crypto/argon2"

	"mailferry/backend"
)

// The cost of a hash: argon2id with 19 MiB, two passes (OWASP's smallest).
const (
	hashTime    = 2
	hashMemory  = 19 << 10 // KiB
	hashWorkers = 2        // hashes at a time: 38 MiB
	hashUsers   = 100_000  // remembered, 64 bytes each
)

// verified remembers that a password was right, for the time in which nobody
// can be asked. A nil one remembers nothing. Safe for concurrent use.
type verified struct {
	keep    time.Duration
	now     func() time.Time
	workers chan struct{}
	wg      sync.WaitGroup

	mu     sync.Mutex
	users  *simplelru.LRU[string, verdict] // by entry handle
	epoch  uint64                          // raised by each forget
	closed bool
}

type verdict struct {
	salt [16]byte
	sum  [32]byte
	at   time.Time
}

func newVerified(keep time.Duration, now func() time.Time) *verified {
	v := &verified{keep: keep, now: now, workers: make(chan struct{}, hashWorkers)}
	v.users, _ = simplelru.NewLRU[string, verdict](hashUsers, nil) // fails for size <= 0 only
	return v
}

func (v *verdict) hash(password backend.Secret) (sum [32]byte) {
	copy(sum[:], argon2.IDKey([]byte(password.Reveal()), v.salt[:], hashTime, hashMemory, 1, uint32(len(sum))))
	return sum
}

// remember notes a password that was right a moment ago. The work is done
// behind the login, left out when there is too much of it, and repeated for a
// user after an eighth of the time that counts.
func (v *verified) remember(id string, password backend.Secret) {
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if have, ok := v.users.Get(id); v.closed || ok && v.now().Sub(have.at) < v.keep/8 {
		return
	}
	select {
	case v.workers <- struct{}{}:
	default:
		return
	}
	at, epoch := v.now(), v.epoch
	v.wg.Go(func() {
		defer func() { <-v.workers }()
		fresh := verdict{at: at}
		_, _ = rand.Read(fresh.salt[:]) // never fails
		fresh.sum = fresh.hash(password)
		v.mu.Lock()
		defer v.mu.Unlock()
		if epoch == v.epoch {
			v.users.Add(id, fresh)
		}
	})
}

// matches reports whether the password was right within the time that counts.
// It may wait for others that are being compared.
func (v *verified) matches(id string, password backend.Secret) bool {
	if v == nil {
		return false
	}
	v.mu.Lock()
	have, ok := v.users.Get(id)
	ok = ok && v.now().Sub(have.at) < v.keep
	v.mu.Unlock()
	if !ok {
		return false
	}
	v.workers <- struct{}{}
	defer func() { <-v.workers }()
	sum := have.hash(password)
	return subtle.ConstantTimeCompare(sum[:], have.sum[:]) == 1
}

// forget drops a user whose password was wrong or may have changed.
func (v *verified) forget(id string) {
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.epoch++
	v.users.Remove(id)
}

// close ends the work that runs behind.
func (v *verified) close() {
	if v == nil {
		return
	}
	v.mu.Lock()
	v.closed = true
	v.users.Purge()
	v.epoch++
	v.mu.Unlock()
	v.wg.Wait()
}
