package migrate

import (
	"cmp"
	"sync"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// lineCount counts the connections to each source: one for every user that is
// being moved, and those that large mailboxes take beside it. Safe for
// concurrent use; the zero value is ready.
type lineCount struct {
	mu   sync.Mutex
	open map[string]int // guarded by mu
}

// linesOf bounds the connections of a migration to one host of a store.
func linesOf(s *backend.Store) int {
	return cmp.Or(s.MaxConnections, remote.ProfileOf(s.Type).Connections)
}

func (l *lineCount) add(s *backend.Store, host string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.open = make(map[string]int)
	}
	key := s.Name + "|" + host
	if l.open[key] += n; l.open[key] == 0 {
		delete(l.open, key)
	}
}

// another takes one beside those of the users, unless the source would have
// more than it is configured for.
func (l *lineCount) another(s *backend.Store, host string) (release func(), ok bool) {
	l.mu.Lock()
	full := l.open[s.Name+"|"+host] >= linesOf(s)
	l.mu.Unlock()
	if full {
		return nil, false
	}
	l.add(s, host, 1)
	return func() { l.add(s, host, -1) }, true
}
