package migrate

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// A run of many users of very different sizes by some workers, on a clock of its
// own, whose source gets slower half-way: the end that is foretold at any moment
// after a tenth of the work is wrong by a fifth of the run at most.
func TestEstimate(t *testing.T) {
	for _, tt := range []struct {
		name    string
		users   int
		workers int
		slower  float64 // speed in the second half
		pause   bool
	}{{"steady", 1500, 8, 1, false}, {"with a pause of ten hours", 1500, 8, 1, true}, {"fewer users", 300, 2, 1, false}, {"slower later", 1500, 8, 0.85, false}} {
		t.Run(tt.name, func(t *testing.T) { simulate(t, tt.users, tt.workers, tt.slower, tt.pause) })
	}
}

type simUser struct{ messages, size, done int64 }

func simulate(t *testing.T, users, workers int, slower float64, pause bool) {
	rng := rand.New(rand.NewPCG(1, 2))
	list := make([]simUser, users)
	for i := range list {
		list[i] = simUser{messages: int64(200 * math.Exp(rng.NormFloat64()*0.8)), size: int64(20000 * math.Exp(rng.NormFloat64()*0.4))}
	}
	type told struct {
		worked time.Duration
		left   time.Duration
		share  float64
	}
	var e estimator
	var answers []told
	now, begun, finished := time.Unix(0, 0), 0, 0
	at := make([]int, 0, workers)
	speed := 8e6 / float64(workers) // octets per second and worker; messages cost extra
	for finished < users {
		for len(at) < workers && begun < users {
			at, begun = append(at, begun), begun+1
		}
		now = now.Add(time.Second)
		if pause && finished == users/2 {
			pause = false
			e.observe(now, false, 0, 0)
			now = now.Add(10 * time.Hour)
			e.observe(now, false, 0, 0)
		}
		factor := 1.0
		if finished > users/2 {
			factor = slower
		}
		rest := at[:0]
		for _, i := range at {
			u := &list[i]
			u.done = min(u.messages, u.done+max(1, int64(speed*factor/float64(u.size+6000))))
			if u.done == u.messages {
				finished++
			} else {
				rest = append(rest, i)
			}
		}
		at = rest
		var f figures
		for i := range list[:begun] {
			u := &list[i]
			f.add(figures{users: 1, planned: u.messages, messages: (u.messages + u.done) / 2, messagesDone: u.done,
				octets: (u.messages + u.done) / 2 * u.size, octetsDone: u.done * u.size}, 1)
		}
		done, total := f.work(users, finished)
		e.observe(now, true, done, float64(f.octetsDone))
		answers = append(answers, told{e.worked, e.left(done, total), done / total})
	}
	end, worst := e.worked, 0.0
	for _, a := range answers {
		if a.share >= 0.1 {
			worst = max(worst, math.Abs(float64(a.worked+a.left-end))/float64(end))
		}
	}
	t.Logf("run of %v, worst error %.1f %%", end, 100*worst)
	if worst > 0.2 {
		t.Errorf("the end that was foretold is wrong by %.0f %% of the run", 100*worst)
	}
	if len(e.samples) > maxSamples {
		t.Errorf("%d samples kept", len(e.samples))
	}
}
