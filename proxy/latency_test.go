package proxy

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// One in eight commands is measured from when it is sent to the first octet of its
// answer; what is pipelined, and what a store says by itself, is not.
func TestLatencyOfCommands(t *testing.T) {
	var got []time.Duration
	inWorld(t, func(o *Options) {
		o.Latency = func(store, host string, d time.Duration) {
			if store != "old" || host != "192.0.2.1" {
				t.Errorf("store %q, host %q", store, host)
			}
			got = append(got, d)
		}
	}, func(w *world) {
		c, b := w.selected("anna", 3)
		got = nil
		for range 16 {
			c.send("n NOOP\r\n")
			b.line()
			time.Sleep(30 * time.Millisecond)
			b.send("* 3 EXISTS\r\n")
			time.Sleep(time.Second)
			b.send("n OK done\r\n")
			c.line()
			c.line()
			synctest.Wait()
		}
		b.send("* 4 EXISTS\r\n")
		c.line()
	})
	if want := []time.Duration{30 * time.Millisecond, 30 * time.Millisecond}; !slices.Equal(got, want) {
		t.Errorf("told %v, want %v", got, want)
	}
}
