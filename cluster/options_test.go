package cluster

import (
	"testing"

	"github.com/cockroachdb/pebble/v2"
)

// TestBuffersFitMemory: two buffers of the log, two of the state and the cache
// are what the administrator allows, on a small machine as on a large one.
func TestBuffersFitMemory(t *testing.T) {
	for _, memory := range []int64{0, 16 << 20, 48 << 20, 1 << 30, 64 << 30} {
		o := Options{NodeID: 1, MemoryBytes: memory}
		o.setDefaults()
		log := &pebble.Options{}
		tuneLog(o.CheckpointBytes)(log)
		state := &pebble.Options{}
		tuneState(o.CheckpointBytes)(state)
		sum := 2*int64(log.MemTableSize) + 2*int64(state.MemTableSize) + o.CacheBytes
		if sum > o.MemoryBytes || sum < o.MemoryBytes*9/10 || o.CacheBytes < o.MemoryBytes/3 {
			t.Errorf("of %d MiB: log 2 x %d, state 2 x %d, cache %d", o.MemoryBytes>>20,
				log.MemTableSize>>20, state.MemTableSize>>20, o.CacheBytes>>20)
		}
	}
}
