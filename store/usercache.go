package store

import (
	"sync"

	"mailferry/cluster/engine"
)

// maxCachedUsers bounds the cache: about 300 octets each.
const maxCachedUsers = 100_000

// userCache remembers records of the Meta shard until any of them changes: one
// look-up per user after that is cheaper than knowing whose it was.
type userCache struct {
	watch *engine.Watcher

	mu     sync.Mutex
	turn   uint64 // rises with each wake-up
	byName map[string]User
}

func newUserCache(w *engine.Watcher) *userCache {
	return &userCache{watch: w, byName: make(map[string]User)}
}

// refresh forgets everything after a wake-up. The caller holds mu.
func (c *userCache) refresh() {
	select {
	case <-c.watch.C:
		c.turn++
		clear(c.byName)
	default:
	}
}

func (c *userCache) get(name string) (User, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refresh()
	u, ok := c.byName[name]
	return u, ok
}

// generation is to be read before the record and given to put.
func (c *userCache) generation() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refresh()
	return c.turn
}

// put remembers a record unless something changed since generation.
func (c *userCache) put(name string, u User, generation uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refresh(); c.turn != generation {
		return
	}
	if len(c.byName) >= maxCachedUsers {
		clear(c.byName)
	}
	c.byName[name] = u
}
