package sim_test

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"testing/cryptotest"

	"mailferry/cluster/sim"
)

// TestSimulation runs a fixed number of seeds. To run more, or one again:
//
//	MAILFERRY_SIM_SEEDS=1000 go test ./cluster/sim -timeout 0
//	MAILFERRY_SIM_FIRST=4711 MAILFERRY_SIM_SEEDS=1 go test ./cluster/sim
func TestSimulation(t *testing.T) {
	first, seeds := number(t, "MAILFERRY_SIM_FIRST", 1), number(t, "MAILFERRY_SIM_SEEDS", 6)
	for _, voters := range []int{1, 3} {
		for seed := first; seed < first+seeds; seed++ {
			t.Run(fmt.Sprintf("voters=%d/seed=%d", voters, seed), func(t *testing.T) {
				cryptotest.SetGlobalRandom(t, seed) // Raft's election timeouts
				w, err := sim.New(sim.Config{Seed: seed, Voters: voters, Shards: 2, Steps: 10000})
				if err != nil {
					t.Fatal(err)
				}
				if err := w.Run(); err != nil {
					t.Fatalf("seed %d: %v\n%s", seed, err, w.Trace())
				}
				t.Log(w.Summary())
			})
		}
	}
}

func number(t *testing.T, name string, otherwise uint64) uint64 {
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}
