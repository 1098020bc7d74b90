package remote

import (
	"bufio"
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"
)

// gaps is a BodySource whose sets are long to write: every other UID.
type gaps struct{ next imap.UID }

func (g *gaps) NextSet() (set imap.UIDSet, octets int64, ok bool) {
	for range 1000 {
		g.next += 2
		set.AddNum(g.next)
	}
	return set, 1000, true
}
func (*gaps) Body(int64, io.Reader) error       { return nil }
func (*gaps) Message(*Meta) error               { return nil }
func (*gaps) Answered(imap.UIDSet, error) error { return nil }

// TestCommandsAheadAreBounded: a store that waits for its answers to be read reads
// no commands, so that no more may be written than fits in the buffers between.
func TestCommandsAheadAreBounded(t *testing.T) {
	var sent bytes.Buffer
	c := &Client{conn: &IMAPConn{w: bufio.NewWriter(&sent)}}
	f := &bodyFetch{c: c, src: &gaps{next: 1_000_000}, items: "BODY.PEEK[]", flight: map[string]*request{},
		window: Window{Commands: 1000}, pace: newPace(0, 32<<20)}
	const line = 1000*len("1000000,") + 100 // no command is longer
	for range 3 {
		if err := f.fill(); err != nil {
			t.Fatal(err)
		}
		if n := sent.Len(); n < commandOctets || n > commandOctets+line {
			t.Fatalf("%d octets of commands are on the way, want about %d", n, commandOctets)
		}
		// An answered command makes room for what it was itself.
		answered, _, _ := strings.Cut(sent.String(), "\r\n")
		sent.Next(len(answered) + 2)
		if err := f.answered(response{tag: f.order[0], name: "OK"}); err != nil {
			t.Fatal(err)
		}
	}
	for len(f.order) > 0 {
		if err := f.answered(response{tag: f.order[0], name: "OK"}); err != nil {
			t.Fatal(err)
		}
	}
	if f.lines != 0 || f.octets != 0 {
		t.Errorf("%d octets of commands and %d of bodies are on the way when all is answered", f.lines, f.octets)
	}
}
