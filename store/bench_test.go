package store_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/cluster"
	"mailferry/store"
)

// benchStore is a store on the disk below TMPDIR, one voter.
func benchStore(b *testing.B, shards int) *store.Store {
	b.Helper()
	n, err := cluster.Open(cluster.Options{NodeID: 1, Dir: b.TempDir(), Shards: shards, Machine: store.NewMachine(),
		Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	s, err := store.New(store.Options{Engine: n})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		s.Close()
		n.Close(context.Background())
	})
	return s
}

// mailText is text that compresses about as mail does.
func mailText(size int) []byte {
	rnd := rand.New(rand.NewPCG(1, 1))
	words := make([]string, 500)
	for i := range words {
		words[i] = fmt.Sprintf("%x", rnd.Uint32())[:2+rnd.IntN(6)]
	}
	var text bytes.Buffer
	text.WriteString("From: Anna <anna@example.org>\r\nTo: Bert <bert@example.org>\r\nSubject: Hello\r\nMessage-ID: <1@example.org>\r\n" +
		"Date: Mon, 2 Mar 2026 10:00:00 +0100\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n")
	for text.Len() < size {
		text.WriteString(words[rnd.IntN(len(words))])
		text.WriteByte(" \n"[rnd.IntN(10)/9])
	}
	return text.Bytes()[:size]
}

func BenchmarkDeliver(b *testing.B) {
	for _, size := range []int{4 << 10, 16 << 10} {
		for _, to := range []int{1, 10} {
			b.Run(fmt.Sprintf("size=%d/recipients=%d", size, to), func(b *testing.B) {
				s := benchStore(b, 16)
				const users = 64
				for i := range users {
					newUser(b, s, fmt.Sprint("u", i))
				}
				text := mailText(size)
				var next atomic.Int64
				b.SetParallelism(16) // 32 senders on two cores
				b.SetBytes(int64(size))
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						n := int(next.Add(1))
						var names []string
						for i := range to {
							names = append(names, fmt.Sprint("u", (n*7+i)%users))
						}
						for _, err := range s.DeliverStream(context.Background(), "x@y", names, bytes.NewReader(text)) {
							if err != nil {
								b.Error(err)
							}
						}
					}
				})
			})
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	s := benchStore(b, 16)
	text := string(mailText(4 << 10))
	var next atomic.Int64
	b.SetParallelism(16)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		f := newUser(b, s, fmt.Sprint("u", next.Add(1)))
		f.ctx = context.Background()
		for pb.Next() {
			f.append(backend.Inbox, text, imap.FlagSeen)
		}
	})
}

func BenchmarkImportPut(b *testing.B) {
	s := benchStore(b, 16)
	text := mailText(16 << 10)
	var next atomic.Int64
	b.SetParallelism(2) // 4 mailboxes at a time
	b.SetBytes(int64(len(text)))
	b.RunParallel(func(pb *testing.PB) {
		ctx := context.Background()
		imp, err := s.Importer().Import(ctx, fmt.Sprint("u", next.Add(1)), backend.ImportOptions{})
		if err != nil {
			b.Fatal(err)
		}
		m, err := imp.Open(ctx, backend.ImportMailbox{Name: backend.Inbox, UIDValidity: 1})
		if err != nil {
			b.Fatal(err)
		}
		var batch []backend.ImportMessage
		flush := func() {
			if err := m.Put(ctx, batch); err != nil {
				b.Error(err)
			}
			batch = batch[:0]
		}
		for uid := imap.UID(1); pb.Next(); uid++ {
			w, err := m.NewBody(ctx)
			if err != nil {
				b.Fatal(err)
			}
			w.Write(text)
			body, err := w.Finish()
			if err != nil {
				b.Fatal(err)
			}
			batch = append(batch, backend.ImportMessage{UID: uid, ModSeq: uint64(uid), Body: body, Flags: []imap.Flag{imap.FlagSeen}})
			if len(batch) == 32 {
				flush()
			}
		}
		flush()
	})
}

// fill appends n small messages to INBOX.
func fill(b *testing.B, f fixture, n int) {
	b.Helper()
	for n > 0 {
		var batch []store.Append
		for range min(n, 500) {
			batch = append(batch, store.Append{Mailbox: backend.Inbox, Body: stage(b, f.Account, "x"), Flags: []imap.Flag{imap.FlagSeen, "Work"}})
		}
		if _, err := f.Append(f.ctx, batch...); err != nil {
			b.Fatal(err)
		}
		n -= len(batch)
	}
}

func BenchmarkMailbox(b *testing.B) {
	s := benchStore(b, 1)
	f := newUser(b, s, "u")
	const n = 100_000
	fill(b, f, n)
	id := f.mailbox(backend.Inbox).ID
	all := imap.UIDSet{{Start: 1, Stop: 1<<32 - 1}}
	b.Run("Snapshot", func(b *testing.B) {
		for b.Loop() {
			f.snapshotID(id).Close()
		}
	})
	b.Run("UIDs", func(b *testing.B) {
		for b.Loop() {
			snap := f.snapshotID(id)
			snap.UIDs()
			snap.Close()
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/msg")
	})
	b.Run("Messages", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			snap := f.snapshotID(id)
			for _, err := range snap.Messages(all) {
				if err != nil {
					b.Fatal(err)
				}
			}
			snap.Close()
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/msg")
	})
	b.Run("StoreFlags", func(b *testing.B) {
		op := store.FlagsAdd
		for b.Loop() {
			if _, err := f.EachStoreFlags(f.ctx, id, all, op, []imap.Flag{imap.FlagFlagged}, 0, func([]store.Message) error { return nil }); err != nil {
				b.Fatal(err)
			}
			op = store.FlagsAdd + store.FlagsRemove - op
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/msg")
	})
	b.Run("ChangesOfOne", func(b *testing.B) {
		since := f.mailbox(backend.Inbox).HighestModSeq
		f.append(backend.Inbox, "new")
		for b.Loop() {
			snap := f.snapshotID(id)
			for range snap.Changes(since) {
			}
			snap.Close()
		}
	})
}

func (f fixture) snapshotID(id uint64) *store.Snapshot {
	f.t.Helper()
	s, err := f.Snapshot(f.ctx, id)
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}
