package backend

import (
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"
)

func TestUIDLFormat(t *testing.T) {
	for _, c := range []struct {
		format UIDLFormat
		want   string // of UIDVALIDITY 1795324699, UID 427; empty: not valid
	}{
		{"", "1795324699.427"},
		{UIDLCyrus, "1795324699.427"},
		{UIDLPlain, "427"},
		{UIDLDovecot, "000001ab6b027b1b"},
		{UIDLDovecotOld, "6b027b1b000001ab"},
		{UIDLCourier, "UID427-1795324699"},
		{UIDLCourierPlain, "UID427"},
		{UIDLDashed, "1795324699-427"},
		{"%%%05u", "%00427"},
		{"%Xu!%Xv", "1ab!6b027b1b"},
		{"%v", ""}, {"x", ""}, {"%", ""}, {"%8u", ""}, {"%08", ""}, {"%0%", ""}, {"%f", ""}, {"%u x", ""}, {"%u\r\n", ""},
		{UIDLFormat("%u" + strings.Repeat("x", 61)), ""},
		{"%070u", ""},
	} {
		want := c.want
		if c.format.Valid() != (want != "") {
			t.Errorf("%q: valid is %v", c.format, c.format.Valid())
		}
		if want == "" {
			want = "1795324699.427"
		}
		if got := c.format.UIDL(1795324699, 427); got != want {
			t.Errorf("%q: %q, want %q", c.format, got, want)
		}
		if uid, ok := c.format.UID(1795324699, want); !ok || uid != 427 {
			t.Errorf("%q: UID of %q is %d, %v", c.format, want, uid, ok)
		}
		if uid, ok := c.format.UID(1795324698, want); ok && strings.Contains(string(c.format), "v") {
			t.Errorf("%q: UID of %q under another UIDVALIDITY is %d", c.format, want, uid)
		}
		for _, other := range []string{"", want + "0", "0" + want, want[1:], want[:len(want)-1], "x", "99999999999999999999"} {
			if uid, ok := c.format.UID(1795324699, other); ok && c.format.UIDL(1795324699, uid) != other {
				t.Errorf("%q: UID of %q is %d", c.format, other, uid)
			}
		}
	}
	for _, f := range UIDLFormats() {
		if !f.Valid() {
			t.Errorf("%q is not valid", f)
		}
	}
}

// FuzzUIDLFormat: what is valid makes ids that RFC 1939 section 7 allows.
func FuzzUIDLFormat(f *testing.F) {
	for _, format := range UIDLFormats() {
		f.Add(string(format), uint32(1), uint32(1<<32-1))
	}
	f.Fuzz(func(t *testing.T, format string, validity, uid uint32) {
		id := UIDLFormat(format).UIDL(validity, imap.UID(uid))
		if id == "" || len(id) > MaxUIDL || strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Errorf("%q makes %q", format, id)
		}
		got, ok := UIDLFormat(format).UID(validity, id)
		if ok && UIDLFormat(format).UIDL(validity, got) != id {
			t.Errorf("%q: UID of %q is %d", format, id, got)
		}
	})
}
