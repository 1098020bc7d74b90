package migrate

import (
	"testing"
	"time"
)

func TestWorkersGrowWithTheDistance(t *testing.T) {
	for _, k := range []struct {
		parallel, most int
		rtt            time.Duration
		want           int
	}{
		{4, 8, 0, 4}, {4, 20, 10 * time.Millisecond, 6}, {4, 20, 40 * time.Millisecond, 12}, {4, 8, 40 * time.Millisecond, 8},
		{4, 20, time.Second, 20}, {8, 4, 40 * time.Millisecond, 8}, {1, 20, 40 * time.Millisecond, 3},
	} {
		if got := workersAt(k.parallel, k.most, k.rtt); got != k.want {
			t.Errorf("%d workers of %d at %v away: %d, want %d", k.parallel, k.most, k.rtt, got, k.want)
		}
	}
	hired := 0
	c := &crew{}
	c.hire = func() { hired++ }
	c.grow(3)
	c.grow(2)
	c.grow(5)
	if hired != 5 {
		t.Errorf("%d workers", hired)
	}
}

func TestRoomForHoldsGrowsWithTheDistance(t *testing.T) {
	for rtt, want := range map[time.Duration]int64{0: 1, 10 * time.Millisecond: 1, 20 * time.Millisecond: 2, 40 * time.Millisecond: 3, time.Second: 6} {
		if got := fullHold / holdRoom(rtt); got != want {
			t.Errorf("%v away %d holds have the room of one near by, want %d", rtt, got, want)
		}
	}
}
