package migrate

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// queue says which user of a batch is next: waves, windows, times of single
// users, and those who are ready for their flip. It has no clock and no lock of
// its own.
type queue struct {
	spec  *BatchSpec
	waves []wave
	wave  map[string]int // of each user, where there are several

	now    int             // the wave that runs
	left   []int           // users of each wave that are not done
	failed []int           // of each wave, those that an operator went on in spite of left out
	line   []string        // users of the waves so far that wait for a worker
	later  []string        // whose time has not come, by time
	orders map[string]bool // users who may be flipped, the batch's own; empty name: all
	parked []string        // copied, and waiting for a window to flip
	asleep map[string]bool // who have to log in first; no wave waits for them
}

func newQueue(spec *BatchSpec) *queue {
	q := &queue{spec: spec, waves: spec.waves(), now: -1}
	q.left, q.failed = make([]int, len(q.waves)), make([]int, len(q.waves))
	if len(q.waves) > 1 {
		q.wave = make(map[string]int, len(spec.Users))
		for i, w := range q.waves {
			for _, u := range w.users {
				q.wave[u] = i
			}
		}
	}
	return q
}

// fill takes in the users that need something; ahead are those who are looked
// after outside of the line at first.
func (q *queue) fill(needs func(user string) (needs, ahead bool)) (open int) {
	for i := range q.waves {
		var line []string
		for _, u := range q.waves[i].users {
			todo, ahead := needs(u)
			if !todo {
				continue
			}
			q.left[i]++
			if !ahead {
				line = append(line, u)
			}
		}
		q.waves[i].users = line // from here on: who has not begun
		open += q.left[i]
	}
	q.advance()
	return open
}

// advance begins the next wave when the present one is done.
func (q *queue) advance() {
	for q.now < len(q.waves) && (q.now < 0 || q.left[q.now] == 0) {
		if q.now++; q.now == len(q.waves) {
			return
		}
		for _, u := range q.waves[q.now].users {
			if q.spec.Each[u].NotBefore.IsZero() {
				q.line = append(q.line, u)
			} else {
				q.later = append(q.later, u)
			}
		}
		q.waves[q.now].users = nil
		slices.SortStableFunc(q.later, func(a, b string) int { return q.spec.Each[a].NotBefore.Compare(q.spec.Each[b].NotBefore) })
	}
}

// next takes a user whose turn it is at t; flip: one who was copied before.
// Without any it says when to ask again, unless something else changes before;
// zero: not by the clock.
func (q *queue) next(t time.Time) (user string, flip bool, again time.Time) {
	soonest := func(at time.Time) {
		if !at.IsZero() && (again.IsZero() || at.Before(again)) {
			again = at
		}
	}
	for len(q.later) > 0 && !q.spec.Each[q.later[0]].NotBefore.After(t) {
		q.line, q.later = append(q.line, q.later[0]), q.later[1:]
	}
	if i := q.parkedNext(); i >= 0 {
		if w := q.spec.flips(); w.Open(t) {
			user = q.parked[i]
			q.parked = slices.Delete(q.parked, i, i+1)
			return user, true, again
		}
		soonest(q.spec.flips().Next(t))
	}
	if len(q.line) > 0 {
		if q.spec.Window.Open(t) {
			user, q.line = q.line[0], q.line[1:]
			return user, false, again
		}
		soonest(q.spec.Window.Next(t))
	}
	if len(q.later) > 0 {
		soonest(q.spec.Each[q.later[0]].NotBefore)
	}
	return "", false, again
}

// back puts a user in front of the line, park among those who wait to be flipped.
func (q *queue) back(user string) { q.line = slices.Insert(q.line, 0, user) }
func (q *queue) park(user string) { q.parked = append(q.parked, user) }

// sleep puts a user aside until awake, which reports whether they slept.
func (q *queue) sleep(user string) {
	if q.asleep == nil {
		q.asleep = map[string]bool{}
	}
	q.asleep[user] = true
	q.left[q.wave[user]]--
	q.advance()
}

func (q *queue) awake(user string) bool {
	if !q.asleep[user] {
		return false
	}
	delete(q.asleep, user)
	q.left[q.wave[user]]++
	q.line = append(q.line, user)
	return true
}

// done takes a user off for good. halt is set when too many of the wave failed.
func (q *queue) done(user string, failed bool) (halt string) {
	i := q.wave[user]
	q.left[i]--
	if failed {
		q.failed[i]++
		if size := q.size(i); q.spec.StopAt.halts(q.failed[i], size) {
			halt = fmt.Sprintf("%d of %d users of %s failed, and the rule is to stop at %s", q.failed[i], size, q.name(i), q.spec.StopAt)
		}
	}
	if halt == "" {
		q.advance()
	}
	return halt
}

// forgive goes on in spite of the failures so far.
func (q *queue) forgive() {
	clear(q.failed)
	q.advance()
}

// size is how many users a wave has.
func (q *queue) size(i int) int {
	if len(q.waves) == 1 {
		return len(q.spec.Users)
	}
	n := 0
	for _, w := range q.wave {
		if w == i {
			n++
		}
	}
	return n
}

func (q *queue) name(i int) string {
	if len(q.waves) == 1 {
		return "the batch"
	}
	return "wave " + cmp.Or(q.waves[i].name, fmt.Sprint(i+1))
}

// waiting says in words what the batch waits for at t, empty when a user's turn
// has come or all are at work.
func (q *queue) waiting(t time.Time) string {
	switch {
	case q.parkedNext() >= 0 && q.spec.flips().Open(t), len(q.line) > 0 && q.spec.Window.Open(t):
		return ""
	case len(q.line) > 0:
		return "the window opens " + clock(q.spec.Window.Next(t))
	case len(q.parked) > 0:
		return q.parkedWait(t)
	case len(q.later) > 0:
		return "the next user's time comes " + clock(q.spec.Each[q.later[0]].NotBefore)
	case len(q.asleep) > 0:
		return fmt.Sprintf("%d users have to log in first", len(q.asleep))
	}
	return ""
}

func clock(t time.Time) string { return t.Format("Mon 2006-01-02 15:04 MST") }
