package target

import (
	"testing"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend/remote"
)

// TestUIDsBelieved: UIDs of an APPEND are believed only where they can be those
// of new messages, one each.
func TestUIDsBelieved(t *testing.T) {
	for _, k := range []struct {
		uids []imap.UID
		want bool
	}{
		{[]imap.UID{10, 11}, true},
		{[]imap.UID{12, 40}, true},
		{nil, false},
		{[]imap.UID{10}, false},
		{[]imap.UID{10, 11, 12}, false},
		{[]imap.UID{9, 10}, false},
		{[]imap.UID{11, 11}, false},
		{[]imap.UID{12, 11}, false},
	} {
		s := &sending{step: 2, recs: []record{{src: 1, dst: 10}, {src: 2, dst: 10}}, appends: []*remote.Append{{UIDs: k.uids}}}
		if got := s.told(0); got != k.want {
			t.Errorf("%v: believed %v, want %v", k.uids, got, k.want)
		}
	}
}
