package migrate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"hash"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
)

// fakeStore is a backend.Importer in memory with the contract's semantics. It
// outlives a "crashed" engine, as the real store does.
type fakeStore struct {
	mu    sync.Mutex
	users map[string]*fakeUser
	// fail, when set, is asked before each operation.
	fail       func(op string) error
	most       int      // octets of a message; 0: any number
	puts       int      // messages that were filed, repeated ones included
	rotten     imap.UID // Reread gives other octets for it
	unreadable bool     // no body can be read again
}

type fakeUser struct {
	store  *fakeStore
	ns     backend.Namespace
	boxes  map[backend.MailboxName]*fakeBox
	subs   []backend.MailboxName
	active bool
	epoch  uint64
	// generation grows with Reopen: seals of before are void.
	generation int
}

type fakeBox struct {
	user   *fakeUser
	meta   backend.ImportMailbox
	msgs   map[imap.UID]*fakeMessage
	next   uint32
	modseq uint64
	stated uint64 // by the last Seal
	recent uint32
	gone   imap.UIDSet
	sealed int // the generation it was sealed in, plus 1
}

type fakeMessage struct {
	backend.ImportMessage
	data []byte
}

func newFakeStore() *fakeStore { return &fakeStore{users: map[string]*fakeUser{}} }

// op locks the store for an operation.
func (s *fakeStore) op(name string) (func(), error) {
	s.mu.Lock()
	if s.fail != nil {
		if err := s.fail(name); err != nil {
			s.mu.Unlock()
			return nil, err
		}
	}
	return s.mu.Unlock, nil
}

func conflict(text string) error { return backend.NewError(backend.KindConflict, text) }

func (s *fakeStore) Import(_ context.Context, user string, o backend.ImportOptions) (backend.Import, error) {
	done, err := s.op("import")
	if err != nil {
		return nil, err
	}
	defer done()
	u := s.users[user]
	if u == nil {
		u = &fakeUser{store: s, boxes: map[backend.MailboxName]*fakeBox{}}
		s.users[user] = u
	}
	u.ns = o.Namespace
	return u, nil
}

func (u *fakeUser) op(name string) (func(), error) {
	done, err := u.store.op(name)
	if err == nil && u.active && name != "reopen" && name != "digest" && name != "activate" {
		done()
		return nil, conflict("the import is closed")
	}
	return done, err
}

func (u *fakeUser) Open(_ context.Context, m backend.ImportMailbox) (backend.MailboxImport, error) {
	done, err := u.op("open")
	if err != nil {
		return nil, err
	}
	defer done()
	b := u.boxes[m.Name]
	if b == nil || b.meta.UIDValidity != m.UIDValidity {
		b = &fakeBox{user: u, msgs: map[imap.UID]*fakeMessage{}}
		u.boxes[m.Name] = b
	}
	b.meta = m
	return b, nil
}

func (u *fakeUser) Mailboxes(context.Context) (list []backend.ImportedMailbox, err error) {
	done, err := u.op("mailboxes")
	if err != nil {
		return nil, err
	}
	defer done()
	for _, name := range slices.Sorted(maps.Keys(u.boxes)) {
		b := u.boxes[name]
		list = append(list, backend.ImportedMailbox{ImportMailbox: b.meta, Messages: uint32(len(b.msgs)),
			UIDNext: b.next, HighestModSeq: b.modseq,
			FirstRecent: b.recent, Sealed: b.sealed == u.generation+1, SealedModSeq: b.stated})
	}
	return list, nil
}

func (u *fakeUser) Remove(_ context.Context, name backend.MailboxName) error {
	done, err := u.op("remove")
	if err != nil {
		return err
	}
	defer done()
	delete(u.boxes, name)
	return nil
}

func (u *fakeUser) Subscriptions(_ context.Context, names []backend.MailboxName) error {
	done, err := u.op("subscriptions")
	if err != nil {
		return err
	}
	defer done()
	u.subs = slices.Clone(names)
	return nil
}

func (u *fakeUser) Activate(_ context.Context, epoch uint64) error {
	done, err := u.op("activate")
	if err != nil {
		return err
	}
	defer done()
	if u.active && u.epoch != epoch {
		return conflict("active under another epoch")
	}
	for name, b := range u.boxes {
		if !b.meta.NoSelect && b.sealed != u.generation+1 && !u.active {
			return backend.Errorf(backend.KindInvalid, "", "mailbox %q is not sealed", name)
		}
	}
	u.active, u.epoch = true, epoch
	return nil
}

func (u *fakeUser) Reopen(_ context.Context, epoch uint64) error {
	done, err := u.op("reopen")
	if err != nil {
		return err
	}
	defer done()
	if u.active && u.epoch != epoch {
		return conflict("active under another epoch")
	}
	if u.active {
		u.generation++
	}
	u.active = false
	return nil
}

func (u *fakeUser) Digest(_ context.Context, name backend.MailboxName) (d backend.MailboxDigest, err error) {
	done, err := u.op("digest")
	if err != nil {
		return d, err
	}
	defer done()
	b := u.boxes[name]
	if b == nil {
		return d, backend.NewError(backend.KindNotFound, "no such mailbox")
	}
	d = backend.MailboxDigest{UIDValidity: b.meta.UIDValidity, UIDNext: b.next, HighestModSeq: b.modseq, Count: uint32(len(b.msgs))}
	for uid, m := range b.msgs {
		backend.AddSum(&d.Messages, backend.SumMessage(uid, m.Flags))
	}
	return d, nil
}

func (b *fakeBox) NewBody(context.Context) (backend.BodyWriter, error) {
	done, err := b.user.op("body")
	if err != nil {
		return nil, err
	}
	done()
	return &fakeBody{most: b.user.store.most}, nil
}

// fakeBody is writer and body; tests may keep messages in memory.
type fakeBody struct {
	bytes.Buffer
	most int
}

func (b *fakeBody) Write(p []byte) (int, error) {
	if b.most > 0 && b.Len()+len(p) > b.most {
		return 0, backend.NewError(backend.KindTooLarge, "too large")
	}
	return b.Buffer.Write(p)
}

func (b *fakeBody) Finish() (backend.Body, error) { return b, nil }
func (b *fakeBody) Abort()                        {}
func (b *fakeBody) Size() int64                   { return int64(b.Len()) }
func (b *fakeBody) Digest() [32]byte              { return sha256.Sum256(b.Bytes()) }
func (b *fakeBody) Discard()                      {}

func (b *fakeBox) Put(ctx context.Context, msgs []backend.ImportMessage) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	done, err := b.user.op("put")
	if err != nil {
		return err
	}
	defer done()
	b.sealed = 0
	for _, m := range msgs {
		data := bytes.Clone(m.Body.(*fakeBody).Bytes())
		m.Body = nil
		if old := b.msgs[m.UID]; old != nil && !bytes.Equal(old.data, data) {
			return conflict("another message has this UID")
		}
		b.msgs[m.UID] = &fakeMessage{m, data}
		b.user.store.puts++
	}
	return nil
}

func (b *fakeBox) SetFlags(_ context.Context, updates []backend.ImportFlags) error {
	done, err := b.user.op("setflags")
	if err != nil {
		return err
	}
	defer done()
	b.sealed = 0
	for _, f := range updates {
		if m := b.msgs[f.UID]; m != nil {
			m.Flags, m.ModSeq = f.Flags, f.ModSeq
		}
	}
	return nil
}

func (b *fakeBox) Vanish(_ context.Context, uids imap.UIDSet, _ uint64) error {
	done, err := b.user.op("vanish")
	if err != nil {
		return err
	}
	defer done()
	b.sealed = 0
	for uid := range b.msgs {
		if uids.Contains(uid) {
			delete(b.msgs, uid)
			b.gone.AddNum(uid)
		}
	}
	return nil
}

func (b *fakeBox) Seal(_ context.Context, next uint32, modseq uint64, recent uint32) error {
	done, err := b.user.op("seal")
	if err != nil {
		return err
	}
	defer done()
	for uid := range b.msgs {
		if uint32(uid) >= next {
			return backend.NewError(backend.KindInvalid, "UIDNEXT is not above the highest UID")
		}
	}
	b.sealed = b.user.generation + 1
	b.stated = modseq
	b.next, b.modseq, b.recent = max(b.next, next), max(b.modseq, modseq), recent
	return nil
}

func (b *fakeBox) Messages(context.Context) iter.Seq2[backend.ImportedMessage, error] {
	return func(yield func(backend.ImportedMessage, error) bool) {
		done, err := b.user.op("messages")
		if err != nil {
			yield(backend.ImportedMessage{}, err)
			return
		}
		var list []backend.ImportedMessage
		for _, uid := range slices.Sorted(maps.Keys(b.msgs)) {
			m := b.msgs[uid]
			list = append(list, backend.ImportedMessage{UID: uid, ModSeq: m.ModSeq, InternalDate: m.InternalDate,
				Flags: m.Flags, Size: int64(len(m.data)), Digest: sha256.Sum256(m.data)})
		}
		done()
		for _, m := range list {
			if !yield(m, nil) {
				return
			}
		}
	}
}

// box finds an imported mailbox by its components.
func (s *fakeStore) box(t testing.TB, user string, components ...string) *fakeBox {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.users[user]
	if u == nil {
		t.Fatalf("user %s was not imported", user)
	}
	b := u.boxes[backend.JoinName(components...)]
	if b == nil {
		var names []string
		for n := range u.boxes {
			names = append(names, strings.ReplaceAll(string(n), backend.NameSeparator, "|"))
		}
		t.Fatalf("no mailbox %q; there are %q", components, names)
	}
	return b
}

// bodyHash is a body of which only the hash is kept.
type bodyHash struct {
	hash.Hash
	n   int64
	sum [32]byte
}

func newBodyHash() *bodyHash { return &bodyHash{Hash: sha256.New()} }

func (b *bodyHash) Write(p []byte) (int, error) { b.n += int64(len(p)); return b.Hash.Write(p) }
func (b *bodyHash) Size() int64                 { return b.n }
func (b *bodyHash) Digest() [32]byte {
	b.Hash.Sum(b.sum[:0])
	return b.sum
}
