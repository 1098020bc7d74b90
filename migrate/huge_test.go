package migrate

import (
	"bufio"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"mailferry/backend"
	"mailferry/internal/mailtest"
)

// hugeSource serves an INBOX with one message of n octets, without keeping it.
func hugeSource(t *testing.T, n int64) *backend.Store {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { hugeSession(conn, n) })
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return storeAt(t, backend.StoreDovecot, ln.Addr().String(), backend.Login{Mode: backend.LoginMaster, User: "a", Secret: "s"})
}

func hugeSession(conn net.Conn, n int64) {
	defer conn.Close()
	w, r := bufio.NewWriterSize(conn, 64<<10), bufio.NewReader(conn)
	fmt.Fprintf(w, "* OK [CAPABILITY IMAP4rev1] hi\r\n")
	line64 := []byte(strings.Repeat("0123456789abcdef", 4)[:62] + "\r\n")
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
			fmt.Fprintf(w, "* STATUS INBOX (MESSAGES 1 UIDNEXT 2 UIDVALIDITY 7)\r\n")
		case word == "EXAMINE":
			fmt.Fprintf(w, "* 1 EXISTS\r\n* OK [UIDVALIDITY 7] v\r\n* OK [UIDNEXT 2] n\r\n")
		case strings.Contains(rest, "BODY.PEEK"):
			fmt.Fprintf(w, "* 1 FETCH (UID 1 BODY[] {%d}\r\n", n)
			for left := n; left > 0; left -= 64 {
				_, _ = w.Write(line64[:min(left, 64)])
			}
			fmt.Fprintf(w, ")\r\n")
		case strings.Contains(rest, "FETCH 1"):
			fmt.Fprintf(w, "* 1 FETCH (UID 1 FLAGS (\\Seen) INTERNALDATE \"01-Feb-2020 10:00:00 +0100\" RFC822.SIZE %d)\r\n", n)
		}
		fmt.Fprintf(w, "%s OK done\r\n", tag)
	}
}

// TestHugeMessage: a message of 2 GiB (of less in the short run) costs the
// engine 8 MiB of heap at most, and comes whole into our store.
func TestHugeMessage(t *testing.T) {
	n := int64(64 << 20)
	if mailtest.Soaking() {
		n = 2 << 30
	}
	source := hugeSource(t, n)
	t.Run("engine", func(t *testing.T) {
		a := newAccount("anna", dialSynthetic(source), nowhere{})
		defer a.close()
		var start runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&start)
		stop, most := make(chan struct{}), make(chan uint64)
		go func() {
			peak, tick := uint64(0), time.NewTicker(10*time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					var ms runtime.MemStats
					runtime.ReadMemStats(&ms)
					peak = max(peak, ms.HeapInuse)
				case <-stop:
					most <- peak
					return
				}
			}
		}()
		synced(t, a)
		close(stop)
		peak := <-most
		t.Logf("%d octets: heap of %.1f MiB, %.1f before", n, float64(peak)/(1<<20), float64(start.HeapInuse)/(1<<20))
		if peak > start.HeapInuse+8<<20 {
			t.Errorf("the heap grew by %d octets for a message of %d", peak-start.HeapInuse, n)
		}
		if got := a.progress.OctetsDone.Load(); got != n {
			t.Errorf("%d octets came", got)
		}
	})
	t.Run("store", func(t *testing.T) {
		own := ownStore(t)
		a := newAccount("anna", dialSynthetic(source), own.Importer())
		defer a.close()
		synced(t, a)
		if err := a.compare(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		if err := a.reread(t.Context(), 100); err != nil || a.rereads != 1 {
			t.Errorf("read again from the disk: %d, %v", a.rereads, err)
		}
	})
}
