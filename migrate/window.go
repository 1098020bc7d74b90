package migrate

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // zones have the same names on every machine
)

// Windows are times of the week in which something may happen. The zero value
// is always open. It is a value; its text form is what ParseWindows reads.
type Windows struct {
	text  string
	zone  *time.Location
	spans []span
}

// span is one window, in minutes of its zone's wall clock; it ends on the next
// day when to is not above from.
type span struct {
	days     [7]bool // on which it begins
	from, to int
}

const (
	minutesOfDay = 24 * 60
	maxSpans     = 50
)

// ParseWindows reads "22:00-06:00", "Mon-Fri 20:00-06:00, Sat-Sun 00:00-24:00" and
// the like. A zone of the IANA database may stand at the end ("Europe/Zurich",
// "UTC"); without one local holds. Nothing is the zero value.
func ParseWindows(s string, local *time.Location) (Windows, error) {
	w := Windows{text: strings.TrimSpace(s), zone: local}
	if w.text == "" {
		return Windows{}, nil
	}
	text := w.text
	if i := strings.LastIndexAny(text, " \t"); i >= 0 && !strings.Contains(text[i:], ":") {
		// Local would be another zone on another machine.
		if zone, err := time.LoadLocation(text[i+1:]); err == nil && text[i+1:] != "Local" {
			w.zone, text = zone, text[:i]
		} else {
			return Windows{}, fmt.Errorf("%q is no time zone: write Europe/Zurich or UTC", text[i+1:])
		}
	}
	for part := range strings.SplitSeq(text, ",") {
		sp, err := parseSpan(strings.Fields(part))
		if err != nil {
			return Windows{}, err
		}
		if w.spans = append(w.spans, sp); len(w.spans) > maxSpans {
			return Windows{}, fmt.Errorf("more than %d windows", maxSpans)
		}
	}
	return w, nil
}

func parseSpan(words []string) (s span, err error) {
	switch len(words) {
	case 1:
		s.days = [7]bool{true, true, true, true, true, true, true}
	case 2:
		if s.days, err = parseDays(words[0]); err != nil {
			return s, err
		}
		words = words[1:]
	default:
		return s, fmt.Errorf("%q is no window: write 22:00-06:00 or Mon-Fri 22:00-06:00", strings.Join(words, " "))
	}
	from, to, ok := strings.Cut(words[0], "-")
	if !ok {
		return s, fmt.Errorf("%q is no window: write 22:00-06:00", words[0])
	}
	if s.from, err = parseClock(from); err != nil {
		return s, err
	}
	if s.to, err = parseClock(to); err != nil {
		return s, err
	}
	if s.from == s.to || s.from == minutesOfDay {
		return s, fmt.Errorf("%q is an empty window; the whole day is 00:00-24:00", words[0])
	}
	return s, nil
}

// parseClock reads 00:00 to 24:00.
func parseClock(s string) (int, error) {
	h, m, ok := strings.Cut(s, ":")
	hour, err1 := strconv.ParseUint(h, 10, 8)
	minute, err2 := strconv.ParseUint(m, 10, 8)
	if !ok || err1 != nil || err2 != nil || len(m) != 2 || minute > 59 || hour*60+minute > minutesOfDay {
		return 0, fmt.Errorf("%q is no time of day: write 22:00", s)
	}
	return int(hour*60 + minute), nil
}

func parseDays(s string) (days [7]bool, err error) {
	first, last, ok := strings.Cut(s, "-")
	if !ok {
		last = first
	}
	from, to := dayOf(first), dayOf(last)
	if from < 0 || to < 0 {
		return days, fmt.Errorf("%q are no days: write Mon, or Mon-Fri", s)
	}
	for d := from; ; d = (d + 1) % 7 {
		days[d] = true
		if d == to {
			return days, nil
		}
	}
}

func dayOf(s string) int {
	for d := range 7 {
		if name := time.Weekday(d).String(); len(s) >= 3 && len(s) <= len(name) && strings.EqualFold(s, name[:len(s)]) {
			return d
		}
	}
	return -1
}

// Always reports the zero value.
func (w Windows) Always() bool { return len(w.spans) == 0 }

// Open reports whether t is inside of a window.
func (w Windows) Open(t time.Time) bool {
	if w.Always() {
		return true
	}
	t = t.In(w.zone)
	today, minute := int(t.Weekday()), t.Hour()*60+t.Minute()
	for _, s := range w.spans {
		late := s.to <= s.from // it goes on tomorrow
		switch {
		case s.days[today] && minute >= s.from && (late || minute < s.to):
			return true
		case late && s.days[(today+6)%7] && minute < s.to:
			return true
		}
	}
	return false
}

// Next is when Open changes after t; the zero time when it never does. When the
// clocks are changed it may come early: ask Open again then.
func (w Windows) Next(t time.Time) (next time.Time) {
	open := w.Open(t)
	year, month, day := t.In(w.zoneOrUTC()).Date()
	for _, s := range w.spans {
		for _, minute := range []int{s.from, s.to} {
			for off := range 9 {
				at := time.Date(year, month, day+off, 0, minute, 0, 0, w.zone)
				if at.After(t) && w.Open(at) != open {
					if next.IsZero() || at.Before(next) {
						next = at
					}
					break
				}
			}
		}
	}
	return next
}

func (w Windows) zoneOrUTC() *time.Location {
	if w.zone == nil {
		return time.UTC
	}
	return w.zone
}

// String is the text that ParseWindows reads, with the zone.
func (w Windows) String() string {
	if w.Always() {
		return ""
	}
	if name := w.zone.String(); !strings.HasSuffix(w.text, " "+name) && name != "Local" {
		return w.text + " " + name
	}
	return w.text
}

// MarshalText writes String.
func (w Windows) MarshalText() ([]byte, error) { return []byte(w.String()), nil }

// UnmarshalText reads what ParseWindows does, in this machine's zone.
func (w *Windows) UnmarshalText(b []byte) (err error) {
	*w, err = ParseWindows(string(b), time.Local)
	return err
}
