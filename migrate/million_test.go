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
)

// synthetic serves one mailbox of n small messages without keeping any.
func synthetic(b *testing.B, n int) *backend.Store {
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

// BenchmarkMillion reads a mailbox of a million small messages into nowhere and
// tells the highest heap it saw, and how the last tenth's rate compares.
func BenchmarkMillion(b *testing.B) {
	const n = 1_000_000
	store := synthetic(b, n)
	for b.Loop() {
		a := newAccount("anna", func(ctx context.Context) (*remote.Client, error) {
			c, err := remote.DialIMAP(ctx, remote.Target{Store: store, User: "anna"})
			if err != nil {
				return nil, err
			}
			return remote.NewClient(c), nil
		}, nowhere{})
		stop, peak := make(chan struct{}), make(chan uint64)
		var marks [2]time.Duration
		began := time.Now()
		go func() {
			var most uint64
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					var ms runtime.MemStats
					runtime.ReadMemStats(&ms)
					most = max(most, ms.HeapInuse+ms.StackInuse)
					done := a.progress.MessagesDone.Load()
					if marks[0] == 0 && done >= n/10 {
						marks[0] = time.Since(began)
					}
					if marks[1] == 0 && done >= n*9/10 {
						marks[1] = time.Since(began)
					}
				case <-stop:
					peak <- most
					return
				}
			}
		}()
		p, err := a.sync(context.Background())
		if err != nil || p.err() != nil || p.Copied != n {
			b.Fatal(p, err)
		}
		total := time.Since(began)
		close(stop)
		b.ReportMetric(float64(<-peak)/(1<<20), "MiB-heap")
		b.ReportMetric(float64(n)/total.Seconds(), "msg/s")
		b.ReportMetric(0.8*float64(n)/(marks[1]-marks[0]).Seconds(), "mid-msg/s")
		b.ReportMetric(0.1*float64(n)/(total-marks[1]).Seconds(), "last-msg/s")
		a.close()
	}
}
