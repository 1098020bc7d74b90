package imapd_test

import (
	"context"
	"fmt"
	"testing"

	"mailferry/backend"
	"mailferry/store"
)

const benchMessages = 10000

// benchWorld is an INBOX of 10,000 small messages.
func benchWorld(b *testing.B) *conn {
	w := newWorld(b)
	ctx := context.Background()
	a, err := w.store.Account(ctx, "anna")
	if err != nil {
		b.Fatal(err)
	}
	var batch []store.Append
	for i := range benchMessages {
		body, err := a.NewBody(ctx)
		if err != nil {
			b.Fatal(err)
		}
		fmt.Fprint(body, mail(fmt.Sprint(i)))
		staged, err := body.Finish()
		if err != nil {
			b.Fatal(err)
		}
		batch = append(batch, store.Append{Mailbox: backend.Inbox, Body: staged})
		if len(batch) == 100 {
			if _, err := a.Append(ctx, batch...); err != nil {
				b.Fatal(err)
			}
			batch = batch[:0]
		}
	}
	return w.login()
}

func BenchmarkSelect(b *testing.B) {
	c := benchWorld(b)
	for b.Loop() {
		c.log = nil
		c.ok("SELECT INBOX")
	}
}

func BenchmarkFetch(b *testing.B) {
	c := benchWorld(b)
	c.ok("SELECT INBOX")
	for _, items := range []string{"UID FLAGS", "ENVELOPE", "BODY.PEEK[]", "BODY.PEEK[HEADER.FIELDS (From Subject Date)]"} {
		b.Run(items, func(b *testing.B) {
			for b.Loop() {
				c.log = nil
				c.ok("FETCH 1:* (%s)", items)
			}
			b.ReportMetric(benchMessages*float64(b.N)/b.Elapsed().Seconds(), "messages/s")
		})
	}
}

func BenchmarkNoop(b *testing.B) {
	c := benchWorld(b)
	c.ok("SELECT INBOX")
	for b.Loop() {
		c.log = nil
		c.ok("NOOP")
	}
}
