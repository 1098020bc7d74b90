package migrate

import (
	"testing"
	"time"
)

func at(t testing.TB, zone, s string) time.Time {
	t.Helper()
	loc, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	v, err := time.ParseInLocation("2006-01-02 15:04", s, loc)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// 2026-11-27 is a Friday.
func TestWindows(t *testing.T) {
	const zurich = "Europe/Zurich"
	tests := []struct {
		windows, now string
		open         bool
		next         string // empty: never
	}{
		{"", "2026-11-27 12:00", true, ""},
		{"00:00-24:00", "2026-11-27 12:00", true, ""},
		{"22:00-06:00", "2026-11-27 21:59", false, "2026-11-27 22:00"},
		{"22:00-06:00", "2026-11-27 22:00", true, "2026-11-28 06:00"},
		{"22:00-06:00", "2026-11-27 05:59", true, "2026-11-27 06:00"},
		{"22:00-06:00", "2026-11-27 06:00", false, "2026-11-27 22:00"},
		{"Mon-Fri 22:00-06:00", "2026-11-28 03:00", true, "2026-11-28 06:00"}, // Friday's
		{"Mon-Fri 22:00-06:00", "2026-11-28 22:00", false, "2026-11-30 22:00"},
		{"mon-fri 20:00-24:00, Sat-Sun 00:00-24:00", "2026-11-27 23:00", true, "2026-11-30 00:00"},
		{"Saturday 10:00-12:00", "2026-11-27 11:00", false, "2026-11-28 10:00"},
		{"Fri-Mon 10:00-12:00", "2026-11-29 11:00", true, "2026-11-29 12:00"},
		{"22:00-06:00 UTC", "2026-11-27 22:30", false, "2026-11-27 23:00"}, // one hour apart
		{"01:00-04:00", "2026-03-29 00:30", false, "2026-03-29 01:00"},     // the clocks go forward in it
		{"01:00-04:00", "2026-03-29 03:30", true, "2026-03-29 04:00"},
		{"01:00-04:00", "2026-10-25 03:30", true, "2026-10-25 04:00"}, // and back
	}
	loc, _ := time.LoadLocation(zurich)
	for _, tt := range tests {
		w, err := ParseWindows(tt.windows, loc)
		if err != nil {
			t.Errorf("%q: %v", tt.windows, err)
			continue
		}
		now := at(t, zurich, tt.now)
		if w.Open(now) != tt.open {
			t.Errorf("%q at %s: open %v", tt.windows, tt.now, w.Open(now))
		}
		want := time.Time{}
		if tt.next != "" {
			want = at(t, zurich, tt.next)
		}
		if got := w.Next(now); !got.Equal(want) {
			t.Errorf("%q at %s changes at %v, want %v", tt.windows, tt.now, got, want)
		}
	}
}

func TestWindowsThatAreNone(t *testing.T) {
	for _, s := range []string{"22:00", "25:00-26:00", "22:00-22:00", "24:00-02:00", "Foo 10:00-11:00", "10:0-11:00", "22:00-06:00 Mars/Base",
		"22:00-06:00 Local", ",", "Mon Tue 10:00-11:00", "-", "10:00-11:60", "10:00-24:01"} {
		if w, err := ParseWindows(s, time.UTC); err == nil {
			t.Errorf("%q is %+v", s, w)
		}
	}
}

func FuzzWindows(f *testing.F) {
	f.Add("Mon-Fri 22:00-06:00, Sun 00:00-24:00 Europe/Zurich", int64(1774746000))
	f.Fuzz(func(t *testing.T, s string, sec int64) {
		w, err := ParseWindows(s, time.UTC)
		if err != nil {
			return
		}
		again, err := ParseWindows(w.String(), time.UTC)
		now := time.Unix(sec%(1<<33), 0)
		if err != nil || again.Open(now) != w.Open(now) || !again.Next(now).Equal(w.Next(now)) {
			t.Fatalf("%q became %q: %v", s, w.String(), err)
		}
		if next := w.Next(now); !next.IsZero() && (!next.After(now) || w.Open(next) == w.Open(now)) {
			t.Fatalf("%q at %v: next %v", s, now, next)
		}
	})
}

func TestStopRules(t *testing.T) {
	for _, s := range []string{"0", "-1", "x", "100%", "0%", "%", "1.5"} {
		if r, err := ParseStopRule(s); err == nil {
			t.Errorf("%q is %+v", s, r)
		}
	}
	tests := []struct {
		rule          string
		failed, users int
		halts         bool
	}{{"", 9, 9, false}, {"3", 2, 100, false}, {"3", 3, 100, true}, {"5%", 5, 100, false}, {"5%", 6, 100, true}, {"5%", 1, 10, true}, {"2.5%", 1, 40, false}}
	for _, tt := range tests {
		r, err := ParseStopRule(tt.rule)
		if err != nil || r.halts(tt.failed, tt.users) != tt.halts || r.String() != tt.rule {
			t.Errorf("%q with %d of %d: %v", tt.rule, tt.failed, tt.users, err)
		}
	}
}
