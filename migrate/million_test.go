package migrate

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"mailferry/backend"
	"mailferry/backend/remote"
	"mailferry/internal/mailtest"
)

// synthetic serves one mailbox of n small messages without keeping any.
func synthetic(b testing.TB, n int) *backend.Store {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			syntheticSession(conn, n)
		}
	}()
	b.Cleanup(func() { ln.Close(); <-done })
	return storeAt(b, backend.StoreDovecot, ln.Addr().String(), backend.Login{Mode: backend.LoginMaster, User: "a", Secret: "s"})
}

func syntheticSession(conn net.Conn, n int) {
	defer conn.Close()
	w, r := bufio.NewWriterSize(conn, 64<<10), bufio.NewReader(conn)
	fmt.Fprintf(w, "* OK [CAPABILITY IMAP4rev1] hi\r\n")
	const body = "Subject: x\r\n\r\nA small synthetic message, of which there are very many.\r\n"
	for w.Flush() == nil {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		tag, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word, _, _ := strings.Cut(rest, " "); {
		case word == "LIST":
			fmt.Fprintf(w, "* LIST () \"/\" INBOX\r\n")
		case word == "STATUS":
			fmt.Fprintf(w, "* STATUS INBOX (MESSAGES %d UIDNEXT %d UIDVALIDITY 7)\r\n", n, n+1)
		case word == "EXAMINE":
			fmt.Fprintf(w, "* %d EXISTS\r\n* OK [UIDVALIDITY 7] v\r\n* OK [UIDNEXT %d] n\r\n", n, n+1)
		case strings.Contains(rest, "BODY.PEEK"):
			var lo, hi int
			if k, _ := fmt.Sscanf(rest, "UID FETCH %d:%d ", &lo, &hi); k == 1 {
				hi = lo
			}
			for uid := lo; uid <= hi; uid++ {
				fmt.Fprintf(w, "* %d FETCH (UID %d BODY[] {%d}\r\n%s)\r\n", uid, uid, len(body), body)
			}
		case strings.Contains(rest, "FETCH 1:*"):
			for uid := 1; uid <= n; uid++ {
				fmt.Fprintf(w, "* %d FETCH (UID %d FLAGS (\\Seen) INTERNALDATE \"01-Feb-2020 10:00:00 +0100\" RFC822.SIZE %d)\r\n", uid, uid, len(body))
			}
		}
		fmt.Fprintf(w, "%s OK done\r\n", tag)
	}
}

// millionth is the size of the large mailbox: a million messages in the long run.
func millionth() int {
	if mailtest.Soaking() {
		return 1_000_000
	}
	return 40_000
}

// heapRun is what a copy did with the heap.
type heapRun struct {
	peak      uint64    // of HeapInuse and StackInuse above the start
	live      [2]uint64 // reachable at 30 and at 90 percent
	mid, last float64   // messages per second from 10 to 90 percent, and behind
	total     time.Duration
}

// watchHeap runs a copy of n messages and looks at the heap meanwhile.
func watchHeap(t testing.TB, n int, a *account) heapRun {
	t.Helper()
	var start runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&start)
	var r heapRun
	stop, done := make(chan struct{}), make(chan struct{})
	began := time.Now()
	var marks [3]time.Duration
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			var ms runtime.MemStats
			runtime.ReadMemStats(&ms)
			r.peak = max(r.peak, ms.HeapInuse+ms.StackInuse-min(start.HeapInuse+start.StackInuse, ms.HeapInuse+ms.StackInuse))
			got := int(a.progress.MessagesDone.Load())
			for i, share := range []int{30, 90} {
				if r.live[i] == 0 && got >= n*share/100 {
					runtime.GC()
					runtime.ReadMemStats(&ms)
					r.live[i] = ms.HeapAlloc
				}
			}
			for i, share := range []int{10, 90, 100} {
				if marks[i] == 0 && got >= n*share/100 {
					marks[i] = time.Since(began)
				}
			}
		}
	}()
	p, err := a.sync(context.Background())
	r.total = time.Since(began)
	close(stop)
	<-done
	if err == nil {
		err = p.err()
	}
	if err != nil || p.Copied != n {
		t.Fatalf("%+v, %v", p, err)
	}
	r.mid = 0.8 * float64(n) / (marks[1] - marks[0]).Seconds()
	if marks[2] == 0 { // between two looks
		marks[2] = r.total
	}
	r.last = 0.1 * float64(n) / (marks[2] - marks[1]).Seconds()
	return r
}

func dialSynthetic(store *backend.Store) func(context.Context) (*remote.Client, error) {
	return func(ctx context.Context) (*remote.Client, error) {
		c, err := remote.DialIMAP(ctx, remote.Target{Store: store, User: "anna"})
		if err != nil {
			return nil, err
		}
		return remote.NewClient(c), nil
	}
}

// TestMillion copies a mailbox of a million small messages (fewer in the short
// run): into nowhere, where the engine's own memory shows, and into our store.
func TestMillion(t *testing.T) {
	n := millionth()
	source := synthetic(t, n)
	t.Run("engine", func(t *testing.T) {
		a := newAccount("anna", dialSynthetic(source), nowhere{})
		defer a.close()
		r := watchHeap(t, n, a)
		t.Logf("peak heap %.1f MiB, reachable %.1f and %.1f MiB, %.0f and at the end %.0f messages/s", float64(r.peak)/(1<<20),
			float64(r.live[0])/(1<<20), float64(r.live[1])/(1<<20), r.mid, r.last)
		if r.peak > 64<<20 {
			t.Errorf("%d octets of heap for %d messages", r.peak, n)
		}
		if r.live[0] > 0 && r.live[1] > r.live[0]+4<<20 {
			t.Errorf("the heap grew from %d to %d octets while messages were copied", r.live[0], r.live[1])
		}
		if mailtest.Soaking() && r.last < r.mid/3 {
			t.Errorf("%.0f messages/s at the end, %.0f before", r.last, r.mid)
		}
	})
	t.Run("store", func(t *testing.T) {
		own := ownStore(t)
		a := newAccount("anna", dialSynthetic(source), own.Importer())
		defer a.close()
		r := watchHeap(t, n, a)
		t.Logf("peak heap with the store %.1f MiB, %.0f and at the end %.0f messages/s", float64(r.peak)/(1<<20), r.mid, r.last)
		if err := a.compare(t.Context(), false); err != nil {
			t.Error(err)
		}
	})
}
