package remote

import (
	"strconv"
	"strings"
	"time"
)

// ParseDate reads an INTERNALDATE (RFC 9051 "date-time") with its offset. What
// is not a possible date is refused, never bent into another one; so are years
// before 1970, which servers make of missing dates.
func ParseDate(b []byte) (time.Time, bool) {
	// "dd-Mon-yyyy hh:mm:ss +zzzz", where dd may be " d" or "d".
	s := strings.TrimSpace(string(b))
	if i := strings.IndexByte(s, '-'); i == 1 {
		s = "0" + s
	} else if i != 2 {
		return time.Time{}, false
	}
	if len(s) != 26 || s[6] != '-' || s[11] != ' ' || s[14] != ':' || s[17] != ':' || s[20] != ' ' {
		return time.Time{}, false
	}
	month := strings.Index("janfebmaraprmayjunjulaugsepoctnovdec", strings.ToLower(s[3:6]))
	if month < 0 || month%3 != 0 {
		return time.Time{}, false
	}
	var ok = true
	num := func(i, j, lo, hi int) int {
		n, err := strconv.Atoi(s[i:j])
		ok = ok && err == nil && n >= lo && n <= hi && s[i] != '+' && s[i] != '-'
		return n
	}
	day, year := num(0, 2, 1, 31), num(7, 11, 1970, 9999)
	hour, minute, second := num(12, 14, 0, 23), num(15, 17, 0, 59), num(18, 20, 0, 60)
	zh, zm := num(22, 24, 0, 14), num(24, 26, 0, 59)
	if !ok || s[21] != '+' && s[21] != '-' {
		return time.Time{}, false
	}
	offset := zh*3600 + zm*60
	if s[21] == '-' {
		offset = -offset
	}
	t := time.Date(year, time.Month(month/3+1), day, hour, minute, second, 0, time.FixedZone("", offset))
	return t, t.Day() == day || second == 60
}
