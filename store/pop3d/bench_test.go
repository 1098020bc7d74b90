package pop3d_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"mailferry/store/pop3d"
)

// filled is a world over the real engine with n messages of 4 KiB.
func filled(b *testing.B, n int) *world {
	b.Helper()
	w := newWorldOver(b, clusterNode(b, vfs.Default, b.TempDir()))
	text := mail("x") + strings.Repeat("A line of some words, as they come in mail.\r\n", 87)
	for i := range n {
		w.file(text + fmt.Sprint(i))
	}
	b.ResetTimer()
	return w
}

// BenchmarkRetr fetches messages by pipelined commands, as mailboxes are drained.
func BenchmarkRetr(b *testing.B) {
	const messages = 500
	w := filled(b, messages)
	c := w.login()
	var batch strings.Builder
	for i := range 100 {
		fmt.Fprintf(&batch, "RETR %d\r\n", i+1)
	}
	for n := 0; n < b.N; n += 100 {
		c.raw(batch.String())
		for range 100 {
			c.expect("+OK")
			for {
				l, err := c.r.ReadSlice('\n')
				if err != nil {
					b.Fatal(err)
				}
				if string(l) == ".\r\n" {
					break
				}
			}
		}
		c.log = nil
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}

// BenchmarkSession is the usual poll: a login that finds nothing new.
func BenchmarkSession(b *testing.B) {
	w := filled(b, 1000)
	for range b.N {
		c := w.dial(pop3d.ConnInfo{Trusted: true})
		c.raw("USER anna\r\nPASS secret\r\nUIDL\r\nQUIT\r\n")
		for range 3 {
			c.expect("+OK")
		}
		c.many()
		c.expect("+OK")
		c.nc.Close()
	}
}
