package migrate

import "time"

// What a copy costs besides its octets, in octets: measured on loopback, where
// a message costs about as much as 4 KiB and a user as much as 256 KiB.
const (
	messageCost = 4 << 10
	userCost    = 256 << 10
)

// figures are what is known of the work of some users.
type figures struct {
	users                  int64 // who were surveyed
	planned                int64 // messages that they had then
	messages, messagesDone int64 // of those that had to be copied
	octets, octetsDone     int64
}

func (f *figures) add(o figures, sign int64) {
	f.users += sign * o.users
	f.planned += sign * o.planned
	f.messages += sign * o.messages
	f.messagesDone += sign * o.messagesDone
	f.octets += sign * o.octets
	f.octetsDone += sign * o.octetsDone
}

// work is how much is done and how much there is, in octets, of a batch with so
// many users of whom so many are done. What was not surveyed yet is like what was.
func (f figures) work(users, usersDone int) (done, total float64) {
	messages, octets := float64(f.messages), float64(f.octets)
	if more := float64(f.planned - f.messages); more > 0 {
		if f.messages > 0 {
			octets += more * octets / messages
		}
		messages += more
	}
	if f.users > 0 && int64(users) > f.users {
		scale := float64(users) / float64(f.users)
		messages, octets = messages*scale, octets*scale
	}
	done = float64(f.octetsDone) + messageCost*float64(f.messagesDone) + userCost*float64(usersDone)
	total = octets + messageCost*messages + userCost*float64(users)
	return done, max(done, total)
}

// estimator tells how fast work gets done and when it will be. Time in which
// nobody is at work does not count. The zero value is ready.
type estimator struct {
	worked  time.Duration // in which somebody was at work
	last    time.Time
	samples []workSample // oldest first, at most maxSamples
	every   time.Duration
}

type workSample struct {
	at           time.Duration // worked
	done, octets float64
}

const (
	maxSamples = 128
	// Rates are those of the last quarter of the run, of half a minute at least.
	minSpan = 30 * time.Second
)

// observe takes the state of the work; active: somebody is at work.
func (e *estimator) observe(now time.Time, active bool, done, octets float64) {
	if !e.last.IsZero() && active {
		e.worked += now.Sub(e.last)
	}
	e.last = now
	if !active {
		return
	}
	if n := len(e.samples); n > 0 && e.worked-e.samples[n-1].at < e.every {
		return
	}
	e.samples = append(e.samples, workSample{e.worked, done, octets})
	if len(e.samples) < maxSamples {
		return
	}
	kept := e.samples[:0] // every second one from now on
	for i := 0; i < len(e.samples); i += 2 {
		kept = append(kept, e.samples[i])
	}
	e.samples = kept
	e.every = max(2*e.every, e.worked/maxSamples)
}

// rates are work and octets per second of late; 0 before there is a measure.
func (e *estimator) rates(done, octets float64) (work, bytes float64) {
	span := max(minSpan, e.worked/4)
	for i := range e.samples {
		s := &e.samples[i]
		if i+1 < len(e.samples) && e.worked-e.samples[i+1].at >= span {
			continue
		}
		if sec := (e.worked - s.at).Seconds(); sec > 0 {
			return max(0, done-s.done) / sec, max(0, octets-s.octets) / sec
		}
		break
	}
	return 0, 0
}

// left is the time that the rest takes at the present rate; 0: it is not known.
func (e *estimator) left(done, total float64) time.Duration {
	work, _ := e.rates(done, 0)
	if work <= 0 || total <= done {
		return 0
	}
	const never = 1000 * 24 * time.Hour
	return time.Duration(min((total-done)/work*float64(time.Second), float64(never)))
}
