package cluster

import (
	"strings"
	"sync"
	"sync/atomic"

	"mailferry/cluster/engine"
)

// watchers are the wake-up channels by topic.
type watchers struct {
	n  atomic.Int64 // how many there are, to spare the lock when none
	mu sync.Mutex
	by map[string]map[chan struct{}]struct{}
}

func (w *watchers) watch(topic string) *engine.Watcher {
	c := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.by == nil {
		w.by = map[string]map[chan struct{}]struct{}{}
	}
	if w.by[topic] == nil {
		w.by[topic] = map[chan struct{}]struct{}{}
	}
	w.by[topic][c] = struct{}{}
	w.n.Add(1)
	return engine.NewWatcher(c, sync.OnceFunc(func() { w.remove(topic, c) }))
}

func (w *watchers) remove(topic string, c chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.by[topic], c)
	if len(w.by[topic]) == 0 {
		delete(w.by, topic)
	}
	w.n.Add(-1)
	select { // no wake-up after Close
	case <-c:
	default:
	}
}

// publish wakes the watchers of topic; those that have an unread wake-up keep it.
func (w *watchers) publish(topic string) {
	if w.n.Load() == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	wake(w.by[topic])
}

// publishKey wakes the watchers of every prefix of key.
func (w *watchers) publishKey(key string) {
	if w.n.Load() == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for prefix, set := range w.by {
		if strings.HasPrefix(key, prefix) {
			wake(set)
		}
	}
}

func wake(set map[chan struct{}]struct{}) {
	for c := range set {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}
