package proxy

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// readOnly is a net.Conn around a reader.
type readOnly struct {
	net.Conn
	r io.Reader
}

func (c *readOnly) Read(p []byte) (int, error)      { return c.r.Read(p) }
func (c *readOnly) SetReadDeadline(time.Time) error { return nil }

// streams are a store's answers as they are in life.
var streams = map[string]string{
	"bodies 50 KiB": fmt.Sprintf("* 1 FETCH (UID 1 FLAGS (\\Seen) BODY[] {%d}\r\n%s)\r\n", 50<<10, strings.Repeat("0123456789abcdef", 50<<10/16)),
	"bodies 4 KiB":  fmt.Sprintf("* 1 FETCH (UID 1 FLAGS (\\Seen) BODY[] {%d}\r\n%s)\r\n", 4<<10, strings.Repeat("0123456789abcde\n", 4<<10/16)),
	"flags":         "* 1234 FETCH (UID 123456 FLAGS (\\Seen \\Answered $Forwarded) MODSEQ (123456789))\r\n",
}

// BenchmarkTracker is the tracker alone.
func BenchmarkTracker(b *testing.B) {
	for name, s := range streams {
		b.Run(name, func(b *testing.B) {
			chunk := []byte(strings.Repeat(s, 1+bigBuffer/len(s)))
			tr := testTracker()
			var out output
			b.SetBytes(int64(len(chunk)))
			for b.Loop() {
				out.reset()
				if tr.fromBackend(chunk, &out) != len(chunk) {
					b.Fatal("held back")
				}
			}
		})
	}
}
