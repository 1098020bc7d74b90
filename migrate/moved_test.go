package migrate

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/store"
)

// named gives a box's messages ids and contents of their own, from n on.
func named(name string, validity, n, from int) *hostileBox {
	b := filled(name, n)
	b.validity = validity
	for i, m := range b.msgs {
		m.id = fmt.Sprintf("%032x", from+i)
		m.date = fmt.Sprintf("%02d-Feb-2020 10:%02d:00 +0100", 1+(from+i)%28, (from+i)%60)
		m.body = fmt.Sprintf("Subject: %d\r\n\r\n%s\r\n", from+i, strings.Repeat("text ", (from+i)%37))
	}
	return b
}

// move takes messages of UIDs first to last out of b, to the end of another.
func (b *hostileBox) move(to *hostileBox, first, last int) {
	var left []*hostileMsg
	for _, m := range b.msgs {
		if m.uid < first || m.uid > last {
			left = append(left, m)
			continue
		}
		c := *m
		c.uid = to.next
		to.next++
		to.msgs = append(to.msgs, &c)
	}
	b.msgs = left
}

// bodiesOf counts the bodies that were asked for.
func (h *hostile) bodiesOf(since int) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, line := range h.seen[since:] {
		m := fetchRE.FindStringSubmatch(strings.TrimPrefix(line, "UID "))
		if m == nil || !strings.Contains(m[2], "BODY") {
			continue
		}
		for _, b := range h.boxes {
			for _, msg := range b.msgs {
				if inSet(m[1], msg.uid) {
					n++
				}
			}
		}
	}
	return n
}

// same compares our store with the hostile one, octet by octet.
func (h *hostile) same(t *testing.T, a *account, own *store.Store) {
	t.Helper()
	ctx := t.Context()
	if err := a.sumAhead(ctx); err != nil {
		t.Fatal(err)
	}
	if err := a.compare(ctx, false); err != nil {
		t.Error(err)
	}
	if err := a.imp.Activate(ctx, 1); err != nil {
		t.Fatal(err)
	}
	acct, err := own.Account(ctx, a.user)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range h.boxes {
		s := &settled{acct, t, a}
		_, got := s.box(strings.Split(b.name, "/")...)
		if len(got) != len(b.msgs) {
			t.Errorf("%s: %d messages, want %d", b.name, len(got), len(b.msgs))
		}
		for _, m := range b.msgs {
			if got[m.uid].body != m.body {
				t.Errorf("%s: UID %d is %q, want %q", b.name, m.uid, got[m.uid].body, m.body)
			}
		}
	}
}

// TestIDsThatLie: a store's ids of messages lead to no wrong message, whatever
// they say.
func TestIDsThatLie(t *testing.T) {
	const n = 60
	for _, k := range []struct {
		name  string
		spoil func(i int, m *hostileMsg) // of those that were moved
		most  int                        // bodies that may be asked for
		filed int
	}{
		{"true", func(int, *hostileMsg) {}, 3, n / 2},
		{"other size", func(_ int, m *hostileMsg) { m.body += "more\r\n" }, n / 2, 0},
		{"other date", func(_ int, m *hostileMsg) { m.date = "05-May-2005 05:05:05 +0000" }, n / 2, 0},
		{"same size and date", func(_ int, m *hostileMsg) { m.body = strings.Replace(m.body, "Subject", "subject", 1) }, 2 * n, 0},
		{"one for all", func(_ int, m *hostileMsg) { m.id = fmt.Sprintf("%032x", 7) }, 2 * n, 0},
		{"none", func(_ int, m *hostileMsg) { m.id = "NIL" }, n / 2, 0},
		{"some of another size", func(i int, m *hostileMsg) {
			if i%3 == 0 {
				m.body += "more\r\n"
			}
		}, 3 + n/6, n/2 - n/6},
	} {
		t.Run(k.name, func(t *testing.T) {
			inbox, other, archive := named("INBOX", 7, n, 0), named("Other", 8, n, 100), &hostileBox{name: "Archive", validity: 9, next: 1}
			h := startHostile(t, &hostile{typ: backend.StoreDovecot, boxes: []*hostileBox{archive, inbox, other}})
			own := ownStore(t)
			a := h.into(own.Importer())
			a.ids = newContentIDs(filepath.Join(t.TempDir(), "ids"))
			t.Cleanup(a.close)
			synced(t, a)
			other.move(inbox, 1, 20) // these are true
			if p := synced(t, a); p.Filed != 20 {
				t.Errorf("moved: %+v", p)
			}
			inbox.move(archive, 1, n/2)
			for i, m := range archive.msgs {
				k.spoil(i, m)
			}
			h.mu.Lock()
			since := len(h.seen)
			h.mu.Unlock()
			p := synced(t, a)
			if got := h.bodiesOf(since); p.Filed != k.filed && k.name != "one for all" || got > 3*(k.most+n) {
				t.Errorf("%d bodies asked for, %+v", got, p)
			}
			h.same(t, a, own)
		})
	}
}

// A store that knows no ids, although it should, is copied without them.
func TestIDsThatAreRefused(t *testing.T) {
	h := startHostile(t, &hostile{typ: backend.StoreDovecot, boxes: []*hostileBox{named("INBOX", 7, 300, 0), named("Other", 8, 9, 400)}})
	h.bend = func(_ int, line string, answer []string) []string {
		if strings.Contains(line, "X-GUID") {
			return []string{"BAD what is that"}
		}
		return answer
	}
	own := ownStore(t)
	a := h.into(own.Importer())
	a.ids = newContentIDs(filepath.Join(t.TempDir(), "ids"))
	t.Cleanup(a.close)
	if p := synced(t, a); p.Copied != 309 {
		t.Errorf("%+v", p)
	}
	h.same(t, a, own)
}

// TestNamesWithOneUIDValidity: mailboxes of one UIDVALIDITY, and with the same
// UIDs, are not mixed when they change their names.
func TestNamesWithOneUIDValidity(t *testing.T) {
	for _, ids := range []bool{true, false} {
		for _, k := range []struct {
			name    string
			change  func(a, b *hostileBox)
			renamed int // with ids
			without int
		}{
			{"swap", func(a, b *hostileBox) { a.name, b.name = b.name, a.name }, 2, 2},
			{"one goes, one takes its name", func(a, b *hostileBox) { a.name, b.name = "C", "A" }, 2, 1},
			{"one moves below the other", func(a, b *hostileBox) { b.name = "A/B" }, 1, 1},
			{"another comes with its number", func(a, b *hostileBox) {
				*b = *named("C", 7, 25, 500)
				b.object = "" // not told
			}, 0, 0},
		} {
			t.Run(fmt.Sprintf("%s, ids %v", k.name, ids), func(t *testing.T) {
				a, b := named("A", 7, 25, 100), named("B", 7, 25, 200)
				if ids {
					a.object, b.object = "oa", "ob"
				}
				h := startHostile(t, &hostile{typ: backend.StoreDovecot, boxes: []*hostileBox{named("INBOX", 7, 5, 0), a, b}})
				own := ownStore(t)
				acct := h.into(own.Importer())
				t.Cleanup(acct.close)
				synced(t, acct)
				k.change(a, b)
				want := k.without
				if ids {
					want = k.renamed
				}
				if p := synced(t, acct); p.Renamed != want || want == 2 && p.Copied > 0 {
					t.Errorf("%+v", p)
				}
				h.same(t, acct, own)
			})
		}
	}
}

// A mailbox that another takes the name of is compared; what cannot be told is
// copied anew.
func TestRenameOfTwins(t *testing.T) {
	a, b := named("A", 7, 9, 100), named("B", 7, 9, 100)
	for i := range b.msgs {
		b.msgs[i].body = strings.Replace(a.msgs[i].body, "Subject", "subject", 1) // as large
	}
	h := startHostile(t, &hostile{typ: backend.StoreDovecot, boxes: []*hostileBox{named("INBOX", 7, 5, 0), a, b}})
	own := ownStore(t)
	acct := h.into(own.Importer())
	t.Cleanup(acct.close)
	synced(t, acct)
	a.name, b.name = "C", "D"
	if p := synced(t, acct); p.Renamed != 0 || p.Copied != 18 {
		t.Errorf("%+v", p)
	}
	h.same(t, acct, own)
}

var errCrash = errors.New("crashed")

// crashing is an importer whose process dies at its nth change, before or after
// the change was made.
type crashing struct {
	backend.Importer
	at    atomic.Int64
	after bool
}

type crashingImport struct {
	backend.RenamingImport
	c *crashing
}

type crashingBox struct {
	backend.CopyingImport
	backend.Rereader
	c *crashing
}

func (c *crashing) do(fn func() error) error {
	switch at := c.at.Add(-1); {
	case at < -1, at == -1 && !c.after:
		return errCrash
	case at == -1:
		if err := fn(); err != nil {
			return err
		}
		return errCrash
	}
	return fn()
}

func (c *crashing) Import(ctx context.Context, user string, o backend.ImportOptions) (backend.Import, error) {
	i, err := c.Importer.Import(ctx, user, o)
	if err != nil {
		return nil, err
	}
	return &crashingImport{i.(backend.RenamingImport), c}, nil
}

func (i *crashingImport) Open(ctx context.Context, m backend.ImportMailbox) (out backend.MailboxImport, err error) {
	err = i.c.do(func() error {
		b, err := i.RenamingImport.Open(ctx, m)
		if err == nil {
			out = &crashingBox{b.(backend.CopyingImport), b.(backend.Rereader), i.c}
		}
		return err
	})
	return out, err
}

func (i *crashingImport) Remove(ctx context.Context, name backend.MailboxName) error {
	return i.c.do(func() error { return i.RenamingImport.Remove(ctx, name) })
}

func (i *crashingImport) Rename(ctx context.Context, moves []backend.ImportRename) error {
	return i.c.do(func() error { return i.RenamingImport.Rename(ctx, moves) })
}

func (b *crashingBox) Put(ctx context.Context, msgs []backend.ImportMessage) error {
	return b.c.do(func() error { return b.CopyingImport.Put(ctx, msgs) })
}

func (b *crashingBox) PutCopies(ctx context.Context, from backend.MailboxName, copies []backend.ImportCopy) (set imap.UIDSet, err error) {
	err = b.c.do(func() error {
		set, err = b.CopyingImport.PutCopies(ctx, from, copies)
		return err
	})
	return set, err
}

func (b *crashingBox) Vanish(ctx context.Context, uids imap.UIDSet, modseq uint64) error {
	return b.c.do(func() error { return b.CopyingImport.Vanish(ctx, uids, modseq) })
}

func (b *crashingBox) Seal(ctx context.Context, next uint32, modseq uint64, recent uint32) error {
	return b.c.do(func() error { return b.CopyingImport.Seal(ctx, next, modseq, recent) })
}

// TestCrashesAroundRenames: the process dies at every change of a pass that
// renames, swaps and moves, before and after it: the next one ends right.
func TestCrashesAroundRenames(t *testing.T) {
	own := ownStore(t)
	for _, after := range []bool{false, true} {
		for at, done := 0, false; !done; at++ {
			inbox, a, b, c := named("INBOX", 7, 30, 0), named("A", 8, 12, 100), named("B", 8, 12, 200), named("A/C", 9, 12, 300)
			h := startHostile(t, &hostile{typ: backend.StoreDovecot, boxes: []*hostileBox{inbox, a, b, c}})
			ids := filepath.Join(t.TempDir(), "ids")
			open := func(i backend.Importer) *account {
				acct := h.into(i)
				acct.user, acct.ids = fmt.Sprintf("user%d%v", at, after), newContentIDs(ids)
				t.Cleanup(acct.close)
				return acct
			}
			first := open(own.Importer())
			synced(t, first)
			first.close()
			a.name, b.name, c.name = "B", "A", "B/C"
			inbox.move(b, 1, 15)
			c.name = "Z"
			h.boxes = append(h.boxes, named("B/C", 10, 3, 400))
			dying := &crashing{Importer: own.Importer(), after: after}
			dying.at.Store(int64(at))
			second := open(dying)
			p, err := second.sync(t.Context())
			if err == nil {
				err = p.err()
			}
			done = err == nil
			second.drop() // and leaves its file of ids as the kernel has it
			third := open(own.Importer())
			synced(t, third)
			h.same(t, third, own)
			if t.Failed() {
				t.Fatalf("crash at change %d, after it: %v: %v", at, after, err)
			}
			if at > 100 {
				t.Fatal("a pass has no end")
			}
		}
	}
}
