package directory

import (
	"slices"
	"testing"
	"time"

	"mailferry/backend"
)

// BenchmarkLookup is what a login waits for: an answer that is remembered, and
// one search of a real slapd.
func BenchmarkLookup(b *testing.B) {
	d := openLDAP(b, ldapOptions(startSlapd(b)))
	for name, ttl := range map[string]time.Duration{"cached": time.Hour, "searched": time.Nanosecond} {
		b.Run(name, func(b *testing.B) {
			c := newChain(b, ChainOptions{Directories: []backend.Directory{d}, TTL: ttl})
			var took []time.Duration
			for b.Loop() {
				begin := time.Now()
				if _, err := c.Lookup(b.Context(), "anna"); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(begin))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "p99-µs")
		})
	}
}
