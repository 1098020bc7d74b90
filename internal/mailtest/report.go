package mailtest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// Write is a change that a client asked for.
type Write struct {
	Sent, Acked time.Time // Acked is zero when no tagged OK came
	Tag         string
	Mailbox     string
	UID         uint32 // of an APPEND: from APPENDUID, or 0
	Flags       string // "+$Kw" or "-$Kw"; of an APPEND the flags
	MessageID   string // of an APPEND
}

// Pause is the time between a command and its tagged response.
type Pause struct {
	Command string // its name; "DONE" for the end of an IDLE
	Tag     string
	Sent    time.Time
	Took    time.Duration
}

// Arrival is a message that came while the client was connected.
type Arrival struct {
	Mailbox   string
	UID       uint32
	MessageID string // when the client asked for it
	Seen      time.Time
	Idle      bool // told in IDLE
}

// Report is what a Checker saw.
type Report struct {
	Name       string
	Faults     []string // what made no sense; empty is good
	Writes     []Write  // acknowledged and not, in order
	Pauses     []Pause
	Arrivals   []Arrival
	Byes       []string // BYEs between commands, where allowed
	Reconnects int
	Ignored    int // faults beyond those listed
}

// Check fails the test for every fault.
func (r *Report) Check(t testing.TB) {
	t.Helper()
	for _, f := range r.Faults {
		t.Errorf("%s: %s", r.Name, f)
	}
	if r.Ignored > 0 {
		t.Errorf("%s: and %d more", r.Name, r.Ignored)
	}
}

// Acked lists the acknowledged writes.
func (r *Report) Acked() []Write {
	return slices.DeleteFunc(slices.Clone(r.Writes), func(w Write) bool { return w.Acked.IsZero() })
}

// Longest is the longest pause.
func (r *Report) Longest() Pause {
	var longest Pause
	for _, p := range r.Pauses {
		if p.Took > longest.Took {
			longest = p
		}
	}
	return longest
}

// During is the longest pause of a command that was under way, or sent, in
// the time given: the pause that the session saw of a move.
func (r *Report) During(from, to time.Time) Pause {
	var longest Pause
	for _, p := range r.Pauses {
		if p.Sent.Before(to) && p.Sent.Add(p.Took).After(from) && p.Took > longest.Took {
			longest = p
		}
	}
	return longest
}

// Heard returns the time at which the client heard of a message by its
// Message-ID, and whether it did while connected.
func (r *Report) Heard(messageID string) (time.Time, bool) {
	for _, a := range r.Arrivals {
		if a.MessageID == messageID {
			return a.Seen, true
		}
	}
	return time.Time{}, false
}

// Percentile returns the p-th percentile (0 to 100) of durations.
func Percentile(d []time.Duration, p float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	d = slices.Sorted(slices.Values(d))
	return d[min(len(d)-1, int(p/100*float64(len(d))))]
}

func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d commands, longest %s %s, %d writes, %d arrivals, %d byes, %d reconnects, %d faults",
		r.Name, len(r.Pauses), r.Longest().Command, r.Longest().Took.Round(time.Millisecond), len(r.Acked()),
		len(r.Arrivals), len(r.Byes), r.Reconnects, len(r.Faults)+r.Ignored)
	return b.String()
}
