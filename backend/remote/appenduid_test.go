package remote

import (
	"slices"
	"testing"

	"github.com/emersion/go-imap/v2"
)

// TestAppendUID: a set that is not of as many UIDs as messages were sent is not
// taken, and costs no memory.
func TestAppendUID(t *testing.T) {
	for _, k := range []struct {
		arg   string
		count int
		want  []imap.UID
	}{
		{"7 3", 1, []imap.UID{3}},
		{"7 3:5", 3, []imap.UID{3, 4, 5}},
		{"7 3,9:10", 3, []imap.UID{3, 9, 10}},
		{"7 3:5", 2, nil},
		{"7 3", 2, nil},
		{"7 0:1", 2, nil},
		{"7 *", 1, nil},
		{"7 1:4294967295", 100, nil},
		{"7 1:2,1:4294967295", 100, nil},
		{"7", 1, nil},
		{"", 1, nil},
	} {
		if v, got := appendUID(k.arg, k.count); !slices.Equal(got, k.want) || k.want != nil && v != 7 {
			t.Errorf("%q: %d, %v, want %v", k.arg, v, got, k.want)
		}
	}
}
