package migrate

import (
	"math"
	"time"
)

// throttle decides how many users of one host may be copied at a time, by what
// the host says and by how long live users wait for it: additive increase,
// multiplicative decrease. It has no clock and no lock of its own; the fields
// before the blank line are set at start.
type throttle struct {
	most   int            // users at a time
	first  time.Duration  // how long a host that refuses is left alone
	random func() float64 // 0 to 1

	level   float64   // users that are allowed at the moment
	wall    float64   // with more the host refused; 0: it never did
	changed time.Time // of level, last
	until   time.Time // no connection before
	backoff time.Duration
	base    float64   // seconds: the users' usual p95; 0: not known
	over    int       // measures in a row that were too high
	low     time.Time // since when the level is at the bottom
}

const (
	// raiseEvery is how often one user more is tried, while all is well.
	raiseEvery = 5 * time.Second
	// cutPause lies between two cuts: what a cut does shows only after a while.
	cutPause = 2 * time.Second
	// tolerance of the users' p95 over its moving base; what is below slack is
	// noise, which nobody notices.
	tolerance = 1.10
	slack     = 0.005
	// patience: measures over the limit before the level is cut.
	patience = 2
	// A host that refuses one user alone is left alone for longer and longer.
	lastBackOff = 5 * time.Minute
	// climbEvery is how often more is tried than what was refused before.
	climbEvery = time.Minute
	// resigned: after so long at the bottom what users wait for is not our doing.
	resigned = 5 * time.Minute
)

func newThrottle(most int, first time.Duration, random func() float64) *throttle {
	return &throttle{most: most, first: first, random: random, level: float64(most)}
}

// allowed is how many users may be worked on, and from when on connections may
// be opened.
func (t *throttle) allowed() (users int, from time.Time) {
	return max(1, int(t.level)), t.until
}

// refused takes a refusal for want of room while so many users were worked on: the
// host said so, or hung up while others were served. asked is how long it wants to
// be left alone, 0: it did not say.
func (t *throttle) refused(now time.Time, working int, asked time.Duration) {
	if now.Before(t.until) { // the same trouble, told by another connection
		return
	}
	if t.backoff = max(2*t.backoff, t.first); working > 1 {
		t.backoff = t.first // fewer may be served at once
	}
	t.backoff = min(t.backoff, lastBackOff)
	wait := t.backoff
	if asked > 0 {
		wait = min(asked, time.Hour)
	}
	// All workers heard it at once; they shall not come back at once.
	t.until = now.Add(wait + time.Duration(t.random()*float64(wait)/2))
	t.wall = max(1, float64(working-1))
	t.down(now, min(t.level/2, t.wall))
}

// served takes a login that went well: the next refusal begins with a short wait.
func (t *throttle) served(now time.Time) {
	if now.After(t.until.Add(t.backoff)) {
		t.backoff = 0
	}
}

func (t *throttle) cut(now time.Time) {
	if now.Sub(t.changed) < cutPause && !t.changed.IsZero() {
		return
	}
	t.down(now, t.level/2)
}

func (t *throttle) down(now time.Time, level float64) {
	if t.level = max(1, level); t.level == 1 && t.low.IsZero() {
		t.low = now
	}
	t.changed = now
}

// users takes the p95 of what live users waited lately, in seconds; NaN: too few of
// them asked for anything to tell. working is how many users are being copied.
func (t *throttle) users(now time.Time, p95 float64, working int) {
	defer t.raise(now)
	if math.IsNaN(p95) || p95 <= 0 {
		t.over = 0
		return
	}
	limit := max(t.base*tolerance, t.base+slack)
	if t.base == 0 || p95 <= limit || working == 0 {
		// Of itself, the base follows quickly; while we work a slow rise could be ours.
		weight := 0.1
		if working > 0 && p95 > t.base {
			weight = 0.0002 // an hour
		}
		if t.base == 0 {
			weight = 1
		}
		t.base += weight * (p95 - t.base)
		t.over = 0
		return
	}
	if t.over++; t.over < patience {
		return
	}
	if !t.low.IsZero() && now.Sub(t.low) >= resigned {
		t.base += 0.05 * (p95 - t.base)
		return
	}
	t.cut(now)
}

// raise allows one user more after a quiet while.
func (t *throttle) raise(now time.Time) {
	every := raiseEvery
	if t.wall > 0 && t.level >= t.wall {
		every = climbEvery
	}
	if t.over > 0 || now.Before(t.until) || t.level >= float64(t.most) || now.Sub(t.changed) < every {
		return
	}
	t.level, t.changed, t.low = min(float64(t.most), t.level+1), now, time.Time{}
	if t.wall > 0 {
		t.wall = max(t.wall, t.level)
	}
}
