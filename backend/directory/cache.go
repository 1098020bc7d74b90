package directory

import (
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"mailferry/backend"
)

// cached is what the Chain remembers of a name. A nil err is a hit; otherwise
// err is the KindNotFound that was answered.
type cached struct {
	entry backend.Entry
	err   error
	at    time.Time
}

// cache maps names to answers, bounded by least recent use, and knows all
// names of a user. Hits and misses are kept apart, so that guessing cannot
// push known users out. Safe for concurrent use.
type cache struct {
	mu     sync.Mutex
	hits   *simplelru.LRU[string, cached]
	misses *simplelru.LRU[string, cached]
	names  map[string]map[string]struct{} // user, and handle of the entry -> names in hits
	epoch  uint64                         // raised by each forget
}

func newCache(size int) *cache {
	c := &cache{names: map[string]map[string]struct{}{}}
	c.hits, _ = simplelru.NewLRU(size, c.evicted) // fails for size <= 0 only
	c.misses, _ = simplelru.NewLRU[string, cached](size, nil)
	return c
}

func (c *cache) evicted(name string, v cached) {
	for _, key := range keysOf(v.entry) {
		set := c.names[key]
		delete(set, name)
		if len(set) == 0 {
			delete(c.names, key)
		}
	}
}

// keysOf is what an entry's names are forgotten by.
func keysOf(e backend.Entry) []string {
	if e.ID == "" {
		return []string{e.User}
	}
	return []string{e.User, handle(e.Directory, e.ID)}
}

// handle cannot be taken for a user.
func handle(directory, id string) string { return "\x00" + directory + "\x00" + id }

// get returns what is known of name, and the epoch to hand to put.
func (c *cache) get(name string) (v cached, ok bool, epoch uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v, ok = c.hits.Get(name); !ok {
		v, ok = c.misses.Get(name)
	}
	return v, ok, c.epoch
}

// put files an answer, unless something was forgotten since epoch: then the
// answer may be older than that.
func (c *cache) put(name string, v cached, epoch uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if epoch != c.epoch {
		return
	}
	c.hits.Remove(name)
	c.misses.Remove(name)
	if v.err != nil {
		c.misses.Add(name, v)
		return
	}
	c.hits.Add(name, v)
	for _, key := range keysOf(v.entry) {
		set := c.names[key]
		if set == nil {
			set = map[string]struct{}{}
			c.names[key] = set
		}
		set[name] = struct{}{}
	}
}

// forget drops a name and, when it is a user, all names of the user. It
// returns what was dropped.
func (c *cache) forget(name string) (dropped []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	c.misses.Remove(name)
	for n := range c.names[name] {
		dropped = append(dropped, n)
	}
	for _, n := range append(dropped, name) {
		c.hits.Remove(n)
	}
	return append(dropped, name)
}
