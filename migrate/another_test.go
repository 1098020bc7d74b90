package migrate

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// TestLookAlikesThatChangePlaces: mailboxes that share a UIDVALIDITY, and to
// which changes since a modseq are told, are not mixed either.
func TestLookAlikesThatChangePlaces(t *testing.T) {
	for _, k := range []struct {
		name string
		a, b int  // HIGHESTMODSEQ
		ids  bool // OBJECTIDs
	}{{"same modseq", 50, 50, false}, {"higher", 50, 60, false}, {"lower", 60, 50, false}, {"same modseq, with ids", 50, 50, true}} {
		t.Run(k.name, func(t *testing.T) {
			a, b, inbox := named("A", 7, 25, 100), named("B", 7, 25, 200), named("INBOX", 6, 5, 0)
			a.modseq, b.modseq, inbox.modseq = k.a, k.b, 40
			if k.ids {
				a.object, b.object = "oa", "ob"
			}
			h := startHostile(t, &hostile{typ: backend.StoreDovecot, caps: "CONDSTORE", boxes: []*hostileBox{inbox, a, b}})
			own := ownStore(t)
			acct := h.into(own.Importer())
			t.Cleanup(acct.close)
			synced(t, acct)
			a.name, b.name = b.name, a.name
			if p := synced(t, acct); p.Renamed != 2 || p.Copied > 0 {
				t.Errorf("%+v", p)
			}
			h.same(t, acct, own)
		})
	}
}

// Another mailbox under the name is told by its OBJECTID also where its special
// use changed, and UIDVALIDITY counts for more than an OBJECTID that stays.
func TestObjectIDsAndNames(t *testing.T) {
	for _, k := range []struct {
		name    string
		change  func(a, b *hostileBox)
		renamed int
	}{
		{"with a special use", func(a, b *hostileBox) { a.name, b.name, a.attrs = "B", "A", `\Sent` }, 2},
		{"another UIDVALIDITY", func(a, b *hostileBox) { *a = *named("A", 9, 20, 300); a.object = "oa" }, 0},
		{"another UIDVALIDITY and name", func(a, b *hostileBox) { *a = *named("C", 9, 20, 300); a.object = "oa" }, 0},
		{"deleted and made anew", func(a, b *hostileBox) { *a = *named("A", 7, 20, 300); a.object = "new" }, 0},
		{"a parent and its child", func(a, b *hostileBox) { a.name, b.name = "B", "B/A" }, 2},
	} {
		t.Run(k.name, func(t *testing.T) {
			a, b := named("A", 7, 25, 100), named("B", 7, 25, 200)
			for i, m := range b.msgs { // looks like A's
				m.date, m.body = a.msgs[i].date, strings.Replace(a.msgs[i].body, "Subject", "subject", 1)
			}
			a.object, b.object = "oa", "ob"
			h := startHostile(t, &hostile{typ: backend.StoreDovecot, boxes: []*hostileBox{named("INBOX", 7, 5, 0), a, b}})
			own := ownStore(t)
			acct := h.into(own.Importer())
			acct.ids = newContentIDs(filepath.Join(t.TempDir(), "ids"))
			t.Cleanup(acct.close)
			synced(t, acct)
			k.change(a, b)
			if p := synced(t, acct); p.Renamed != k.renamed {
				t.Errorf("%+v", p)
			}
			h.same(t, acct, own)
		})
	}
}

// A store that gives a mailbox another OBJECTID each time is not followed for
// ever.
func TestOBJECTIDsThatChange(t *testing.T) {
	box, n := named("A", 7, 9, 100), 0
	h := startHostile(t, &hostile{typ: backend.StoreDovecot, boxes: []*hostileBox{named("INBOX", 7, 5, 0), box}})
	h.bend = func(_ int, line string, answer []string) []string {
		n++
		box.object = fmt.Sprint("o", n)
		return answer
	}
	a := h.into(ownStore(t).Importer())
	t.Cleanup(a.close)
	for range anewMost + 3 {
		p, err := a.sync(t.Context())
		if err == nil {
			err = p.err()
		}
		if backend.IsKind(err, backend.KindInvalid) {
			return
		}
	}
	t.Error("it is followed still")
}

// spoilt is a store that moved thirty messages and gives another body, of the
// same size and date, under the id of one that no sample meets.
func spoilt(t *testing.T) (h *hostile, copied *account, again func() *account, same func(*account)) {
	inbox, archive := named("INBOX", 7, 60, 0), &hostileBox{name: "Archive", validity: 9, next: 1}
	h = startHostile(t, &hostile{typ: backend.StoreDovecot, boxes: []*hostileBox{archive, inbox, named("Other", 8, 9, 300)}})
	own, file := ownStore(t), filepath.Join(t.TempDir(), "ids")
	again = func() *account {
		a := h.into(own.Importer())
		a.ids = newContentIDs(file)
		t.Cleanup(a.close)
		return a
	}
	copied = again()
	synced(t, copied)
	inbox.move(archive, 1, 30)
	m := archive.msgs[5]
	m.body = strings.Replace(m.body, "Subject", "subject", 1)
	return h, copied, again, func(a *account) { t.Helper(); h.same(t, a, own) }
}

// TestProofFindsWrongIDs: what was filed by an id that lies is found when the
// old store is asked again, and mended, whatever crashes in between.
func TestProofFindsWrongIDs(t *testing.T) {
	for _, crash := range []string{"never", "behind the filing", "behind the finding"} {
		t.Run(crash, func(t *testing.T) {
			_, a, again, same := spoilt(t)
			if p := synced(t, a); p.Filed != 30 {
				t.Fatalf("%+v", p)
			}
			if c := a.certify("compared"); c.Filed != 30 || c.Trusted != 30 {
				t.Errorf("certificate: %d filed, %d trusted", c.Filed, c.Trusted)
			}
			if crash == "behind the filing" {
				a = again() // the first one never closes its file
				synced(t, a)
			}
			if crash == "behind the finding" {
				if err := a.ids.distrust(); err != nil {
					t.Fatal(err)
				}
				a = again()
			} else if _, err := a.prove(t.Context(), 100); !backend.IsKind(err, backend.KindTemporary) {
				t.Fatalf("proof: %v", err)
			}
			synced(t, a)
			if n, err := a.prove(t.Context(), 100); n != 69 || err != nil {
				t.Errorf("proof: %d, %v", n, err)
			}
			if c := a.certify("compared"); c.Filed != 0 || c.Trusted != 0 {
				t.Errorf("certificate: %d filed, %d trusted", c.Filed, c.Trusted)
			}
			same(a)
		})
	}
}

// Where all messages are to be asked for again, a hold files none that nobody
// would ask for.
func TestStrictHold(t *testing.T) {
	for _, strict := range []bool{false, true} {
		h, a, _, same := spoilt(t)
		a.onHold, a.strict = true, strict
		h.boxes[1].move(h.boxes[0], 31, 55) // enough for a hold to look
		p := synced(t, a)
		if filed := p.Filed > 0; filed == strict {
			t.Errorf("strict %v: %+v", strict, p)
		}
		if strict {
			same(a)
		}
	}
}

// TestIDsCannotBeAsked: what fails while ids are asked for costs bodies, and no
// pass.
func TestIDsCannotBeAsked(t *testing.T) {
	for name, bend := range map[string]func(line string, answer []string) []string{
		"NO": func(line string, answer []string) []string {
			return []string{"NO not now"}
		},
		"a cut connection": func(line string, answer []string) []string { return nil },
		"no bodies": func(line string, answer []string) []string {
			if strings.Contains(line, "RFC822.SIZE") {
				return answer
			}
			return []string{"OK nothing"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, a, _, same := spoilt(t)
			h.mu.Lock()
			asked := 0
			h.bend = func(_ int, line string, answer []string) []string {
				if asked == 0 && strings.Contains(line, "X-GUID") && strings.Contains(line, "RFC822.SIZE") {
					asked = 1
					return bend(line, answer)
				}
				if asked == 1 && name == "no bodies" && strings.Contains(line, "BODY") {
					asked = 2
					return bend(line, answer)
				}
				return answer
			}
			h.mu.Unlock()
			if p := synced(t, a); p.Filed != 0 || p.Copied != 30 {
				t.Errorf("%+v", p)
			}
			same(a)
		})
	}
}

// TestFileOfIDs: what more than speed depends on outlives a process that ends
// without a word, and a file that grew too large.
func TestFileOfIDs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ids")
	a, b, c := nameOf("a", 1), nameOf("b", 1), nameOf("c", 2)
	one, two := hashID([]byte("1")), hashID([]byte("2"))
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	open := func() *contentIDs {
		ids := newContentIDs(path)
		t.Cleanup(func() { _ = ids.close() })
		return ids
	}
	object := func(ids *contentIDs, box idName, want idHash) {
		t.Helper()
		if got, err := ids.object(box); got != want || err != nil {
			t.Errorf("object %x, %v, want %x", got, err, want)
		}
	}
	ids := open()
	check(ids.note(a, one))
	check(ids.filing(a, []filing{{hashID([]byte("m")), 7, [32]byte{1}}}))
	check(ids.note(c, two))
	moves := map[idName]idMove{a: {b, one}, c: {a, two}}
	check(ids.renaming(moves))
	ids = open() // killed: nobody knows whether they have their names
	for _, box := range []idName{a, b, c} {
		object(ids, box, idHash{})
	}
	if !ids.hasFiled(a) || !ids.hasFiled(b) || ids.hasFiled(c) {
		t.Error("what was filed is not known")
	}
	check(ids.rename(moves))
	ids = open()
	object(ids, b, one)
	object(ids, a, two)
	for i := range 100_001 {
		check(ids.add(b, hashID(fmt.Append(nil, i)), 9, [32]byte{2}))
	}
	check(ids.trim(0))
	found := 0
	check(ids.find(func(idHash) bool { return true }, func(idHash, idPlace) { found++ }))
	if found > 3 { // marks
		t.Errorf("%d messages are left", found)
	}
	object(ids, b, one)
	object(ids, a, two)
	check(ids.distrust())
	ids = open()
	boxes, err := ids.doubtful()
	if check(err); !boxes[b] || boxes[c] {
		t.Errorf("doubtful: %v", boxes)
	}
	check(ids.dropped())
	if boxes, err := open().doubtful(); boxes != nil || err != nil {
		t.Errorf("doubtful: %v, %v", boxes, err)
	}
	check(ids.remove())
	if left, err := filepath.Glob(path + "*"); len(left) > 0 || err != nil {
		t.Errorf("left: %v, %v", left, err)
	}
}

// A mailbox of more messages than are in hand at a time is looked at in parts.
func TestManyMove(t *testing.T) {
	const n = 550
	inbox, archive := named("INBOX", 7, n, 0), &hostileBox{name: "Archive", validity: 9, next: 1}
	h := startHostile(t, &hostile{typ: backend.StoreDovecot, boxes: []*hostileBox{archive, inbox}})
	own := ownStore(t)
	a := h.into(own.Importer())
	a.ids, a.chunk = newContentIDs(filepath.Join(t.TempDir(), "ids")), 100
	t.Cleanup(a.close)
	synced(t, a)
	archive.next = 1000 // no UID for each
	inbox.move(archive, 1, n-200)
	archive.next += 5000
	inbox.move(archive, n-199, n-10)
	if p := synced(t, a); p.Filed != n-10 || p.Copied != 0 {
		t.Errorf("%+v", p)
	}
	h.same(t, a, own)
}

// A pass that ends before its mailboxes are sealed counts what it filed once.
func TestFiledIsCountedOnce(t *testing.T) {
	h, a, _, _ := spoilt(t)
	h.boxes[0].msgs[5].body = h.boxes[0].msgs[5].body[:1] + "X" + h.boxes[0].msgs[5].body[2:]
	dial, cut := a.dial, false
	a.dial = func(ctx context.Context) (*remote.Client, error) {
		if cut {
			return nil, errors.New("away")
		}
		return dial(ctx)
	}
	h.mu.Lock()
	h.bend = func(_ int, line string, answer []string) []string {
		if cut || strings.HasPrefix(line, "UID FETCH") && strings.Contains(line, "BODY") { // the sample
			cut = true
		}
		if cut && strings.HasPrefix(line, "EXAMINE") {
			return nil
		}
		return answer
	}
	h.mu.Unlock()
	if p, err := a.sync(t.Context()); err == nil && p.err() == nil {
		t.Fatalf("%+v", p)
	}
	h.mu.Lock()
	h.bend, cut = nil, false
	h.mu.Unlock()
	synced(t, a)
	if c := a.certify("compared"); c.Filed != 30 {
		t.Errorf("%d filed", c.Filed)
	}
}

// TestRenamedInbox: INBOX stays, its messages go to a new mailbox and get new
// UIDs there (RFC 9051 6.3.6).
func TestRenamedInbox(t *testing.T) {
	inbox := named("INBOX", 7, 60, 0)
	inbox.modseq = 90
	h := startHostile(t, &hostile{typ: backend.StoreDovecot, caps: "CONDSTORE", boxes: []*hostileBox{inbox}})
	own := ownStore(t)
	a := h.into(own.Importer())
	a.ids = newContentIDs(filepath.Join(t.TempDir(), "ids"))
	t.Cleanup(a.close)
	synced(t, a)
	old := &hostileBox{name: "Old", validity: 8, next: 1, modseq: 95}
	inbox.move(old, 1, 60)
	h.boxes = append(h.boxes, old)
	for i, m := range named("", 0, 3, 200).msgs { // and new mail comes
		m.uid = inbox.next
		inbox.next++
		inbox.msgs = append(inbox.msgs, m)
		inbox.modseq = 96 + i
	}
	if p := synced(t, a); p.Filed != 60 || p.Copied != 3 || p.Vanished != 60 {
		t.Errorf("%+v", p)
	}
	h.same(t, a, own)
}

// TestLowerUIDNEXT: a mailbox that is made anew under its old name in the second
// in which the first was made has its UIDVALIDITY, and UIDs that begin again.
func TestLowerUIDNEXT(t *testing.T) {
	for _, left := range []int{0, 2} {
		for _, anew := range []bool{true, false} { // by the process that copied the first, or by another
			t.Run(fmt.Sprintf("%d messages, by another process %v", left, anew), func(t *testing.T) {
				b := named("B", 8, 14, 100)
				h := startHostile(t, &hostile{typ: backend.StoreDovecot, boxes: []*hostileBox{named("INBOX", 7, 5, 0), b}})
				own := ownStore(t)
				a := h.into(own.Importer())
				synced(t, a)
				if anew {
					a.close()
					a = h.into(own.Importer())
				}
				t.Cleanup(a.close)
				*b = *named("B", 8, left, 500)
				synced(t, a)
				h.same(t, a, own)
			})
		}
	}
}
