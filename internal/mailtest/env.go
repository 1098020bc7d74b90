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

// Seed is SEED of the environment or, without one, a new number; it is logged,
// so that a failure can be had again.
func Seed(t testing.TB) uint64 {
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
	return seed
}

// Rand is a source of random numbers that begins with Seed.
func Rand(t testing.TB) *rand.Rand {
	t.Helper()
	return rand.New(rand.NewPCG(Seed(t), 0))
}
