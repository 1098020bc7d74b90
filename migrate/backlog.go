package migrate

import (
	"sync"

	"github.com/emersion/go-imap/v2"
)

// backlog are the messages of a mailbox that are left to fetch. Several
// connections may take from it: one the newest, the others the oldest. Safe for
// concurrent use.
type backlog struct {
	mu      sync.Mutex
	entries []entry // ascending; guarded by mu
	octets  int64   // of them; guarded by mu
}

func newBacklog(entries []entry) *backlog {
	q := &backlog{entries: entries}
	for i := range entries {
		q.octets += entries[i].cost()
	}
	return q
}

// cost is about what a message is on the wire.
func (e *entry) cost() int64 { return int64(e.size) + messageOverhead }

// take gives up to limit messages and setOctets octets.
func (q *backlog) take(limit int, oldest bool) (set imap.UIDSet, octets int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(q.entries)
	k := 0
	for k < n && k < limit && octets < setOctets {
		e := &q.entries[n-1-k]
		if oldest {
			e = &q.entries[k]
		}
		octets += e.cost()
		k++
	}
	q.octets -= octets
	part := q.entries[n-k:]
	if oldest {
		part, q.entries = q.entries[:k], q.entries[k:]
	} else {
		q.entries = q.entries[:n-k]
	}
	for i := range part {
		uid := part[i].uid
		if k := len(set); k > 0 && set[k-1].Stop+1 == uid {
			set[k-1].Stop = uid
		} else {
			set = append(set, imap.UIDRange{Start: uid, Stop: uid})
		}
	}
	return set, octets
}

// messageOverhead is what a response has around a body, in octets.
const messageOverhead = 256

// left is about what is still to come.
func (q *backlog) left() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.octets
}

func (q *backlog) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.entries)
}
