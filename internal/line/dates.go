package line

import (
	"strings"
	"time"
)

// DateTimeLayout is date-time (RFC 9051 section 9), without its quotes.
const DateTimeLayout = "_2-Jan-2006 15:04:05 -0700"

// ExpectDateTime takes a date-time: "17-Jul-1996 02:44:25 -0700", quoted.
func (d *Decoder) ExpectDateTime(t *time.Time) bool {
	var s string
	if !d.Quoted(&s) {
		return d.Fail("Date and time expected")
	}
	v, err := time.Parse(DateTimeLayout, s)
	if err != nil {
		if v, err = time.Parse("2-Jan-2006 15:04:05 -0700", strings.TrimSpace(s)); err != nil {
			return d.Fail("Invalid date and time")
		}
	}
	*t = v
	return true
}

// ExpectDate takes a date, quoted or not: 1-Feb-1994. The result is midnight
// UTC.
func (d *Decoder) ExpectDate(t *time.Time) bool {
	var s string
	if !d.Quoted(&s) && !d.Atom(&s) {
		return d.Fail("Date expected")
	}
	v, err := time.Parse("2-Jan-2006", s)
	if err != nil {
		return d.Fail("Invalid date")
	}
	*t = v
	return true
}
