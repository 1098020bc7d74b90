package mailtest

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// Soaking reports whether this is the long run (make soak sets SOAK=1): tests
// that repeat random operations do more of them then.
func Soaking() bool { return os.Getenv("SOAK") == "1" }

// Rand is a source of random numbers whose seed is printed, and taken from
// SEED in the environment when it is there, so that a failure can be had again.
func Rand(t testing.TB) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("SEED: %v", err)
		}
		seed = n
	}
	t.Logf("SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}
