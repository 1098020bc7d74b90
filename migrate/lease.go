package migrate

import (
	"sync"

	"mailferry/backend"
)

// leases let one move at a time work on a user, whatever names batches have for
// them: an alias and the user's own name are one mailbox. Safe for concurrent use;
// the zero value is ready.
type leases struct {
	mu sync.Mutex
	m  map[string]lease // by the directory's name of the user; guarded by mu
}

// lease is who holds one: a batch, under the name that it has for the user.
type lease struct {
	batch BatchID
	name  string
}

// take gives the user to l, who may have them already. KindConflict: somebody
// else does. One who has the user on hold takes them from anybody: owner and mail
// wait for it.
func (ls *leases) take(user string, l lease, held bool) error {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if has, ok := ls.m[user]; ok && has != l && !held {
		return backend.Errorf(backend.KindConflict, "The user is being moved already.",
			"user %q is being moved by batch %s as %q", user, has.batch, has.name)
	}
	if ls.m == nil {
		ls.m = make(map[string]lease)
	}
	ls.m[user] = l
	return nil
}

// leave gives the user up, if l has them.
func (ls *leases) leave(user string, l lease) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.m[user] == l {
		delete(ls.m, user)
	}
}

// leaveAll gives up what a batch has.
func (ls *leases) leaveAll(id BatchID) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for user, l := range ls.m {
		if l.batch == id {
			delete(ls.m, user)
		}
	}
}
