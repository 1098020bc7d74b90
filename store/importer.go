package store

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/cluster/engine"
)

// Importer is the store's side of a move.
func (s *Store) Importer() backend.Importer { return importer{s} }

type importer struct{ store *Store }

// Import implements backend.Importer. A user who was created here and never had
// a message may be imported: the empty mailboxes make way.
func (i importer) Import(ctx context.Context, user string, o backend.ImportOptions) (backend.Import, error) {
	s := i.store
	if !o.UIDLFormat.Valid() {
		return nil, backend.Errorf(backend.KindInvalid, "", "import: UIDL format %q", o.UIDLFormat)
	}
	u, err := s.importUser(ctx, user, o)
	if err != nil {
		return nil, err
	}
	sh, err := s.shard(u.Shard)
	if err != nil {
		return nil, err
	}
	imp := &userImport{store: s, shard: sh, user: u}
	same := u.State == UserImporting && u.Namespace == o.Namespace && (o.UIDLFormat == "" || u.UIDLFormat == o.UIDLFormat)
	if same {
		// One that is open already, and as it is to be, costs no command.
		if open, err := imp.isOpen(ctx); open || err != nil {
			return imp, err
		}
	}
	d, err := imp.propose(ctx, imp.command(cmdImportBegin))
	if err != nil {
		return nil, err
	}
	if open := d.bool(); !open {
		return imp, d.end() // activated already: only Activate and Reopen make sense
	}
	if !same {
		imp.user, err = s.setUser(ctx, u.Name, func(u *User) error {
			u.State, u.Namespace = UserImporting, o.Namespace
			u.UIDLFormat = cmp.Or(o.UIDLFormat, u.UIDLFormat)
			return nil
		})
	}
	return imp, err
}

// isOpen reports whether the shard has the user's import open.
func (i *userImport) isOpen(ctx context.Context) (bool, error) {
	v, err := i.store.view(ctx, i.shard)
	if err != nil {
		return false, err
	}
	defer v.Close()
	raw, err := v.Get(userKey(prefixAccount, i.user.ID))
	if errors.Is(err, engine.ErrNotFound) {
		return false, nil // created, and not begun
	}
	if err != nil {
		return false, engineError(err)
	}
	account, err := decodeAccount(raw)
	if err != nil {
		return false, engineError(err)
	}
	return account.State == accountImporting, nil
}

// importUser finds or creates the record of a user to import.
func (s *Store) importUser(ctx context.Context, name string, o backend.ImportOptions) (User, error) {
	u, err := s.readUser(ctx, name)
	if backend.IsKind(err, backend.KindNotFound) {
		u, err = s.addUser(ctx, User{Name: name, Namespace: o.Namespace, UIDLFormat: o.UIDLFormat, State: UserImporting})
		if backend.IsKind(err, backend.KindExists) {
			u, err = s.readUser(ctx, name) // another import was faster
		}
	}
	if err != nil {
		return User{}, err
	}
	if foldName(u.Name) != foldName(name) {
		return User{}, backend.NewError(backend.KindConflict, "name is another user's alias")
	}
	if u.State == UserDeleting {
		return User{}, backend.NewError(backend.KindTemporary, "user is being deleted")
	}
	return u, nil
}

// userImport implements backend.Import.
type userImport struct {
	store *Store
	shard engine.Shard
	user  User
}

func (i *userImport) command(cmd byte) *encoder {
	e := &encoder{b: make([]byte, 0, 512)}
	e.byte(cmd)
	e.uint(i.user.ID)
	return e
}

func (i *userImport) propose(ctx context.Context, e *encoder, bodies ...engine.StagedBody) (*decoder, error) {
	return i.store.propose(ctx, i.shard, e.b, bodies...)
}

// Open implements backend.Import.
func (i *userImport) Open(ctx context.Context, m backend.ImportMailbox) (backend.MailboxImport, error) {
	if m.NoSelect != (m.UIDValidity == 0) || m.Name == "" || len(m.Name) > maxNameLength {
		return nil, backend.Errorf(backend.KindInvalid, "", "import of mailbox %q with UIDVALIDITY %d, noselect %v",
			m.Name, m.UIDValidity, m.NoSelect)
	}
	e := i.command(cmdImportOpen)
	e.string(string(m.Name))
	e.uint(uint64(m.UIDValidity))
	encodeStrings(e, m.SpecialUse)
	d, err := i.propose(ctx, e)
	if err != nil {
		return nil, err
	}
	id, more := d.uint(), d.bool()
	if more {
		if err := i.store.purge(ctx, i.shard, i.user.ID); err != nil {
			return nil, err
		}
	}
	return &mailboxImport{userImport: i, mailbox: id}, engineError(d.end())
}

// Mailboxes implements backend.Import.
func (i *userImport) Mailboxes(ctx context.Context) ([]backend.ImportedMailbox, error) {
	v, err := i.store.view(ctx, i.shard)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	raw, err := v.Get(userKey(prefixAccount, i.user.ID))
	if err != nil {
		return nil, engineError(err)
	}
	account, err := decodeAccount(raw)
	if err != nil {
		return nil, engineError(err)
	}
	lower := userKey(prefixMailbox, i.user.ID)
	it := v.Iter(lower, prefixEnd(lower))
	var list []backend.ImportedMailbox
	for ok := it.First(); ok; ok = it.Next() {
		rec, err := decodeMailbox(it.Value())
		if err != nil {
			return nil, closeWith(it, err)
		}
		m := backend.ImportedMailbox{ImportMailbox: backend.ImportMailbox{Name: rec.Name, UIDValidity: rec.UIDValidity,
			SpecialUse: rec.SpecialUse, NoSelect: rec.NoSelect}, Messages: rec.Messages}
		if rec.wasSealed() {
			m.UIDNext, m.HighestModSeq, m.FirstRecent = rec.UIDNext, rec.HighestModSeq, rec.FirstRecent
			m.Sealed, m.SealedModSeq = rec.Sealed == account.Generation, rec.SealedModSeq
		}
		list = append(list, m)
	}
	slices.SortFunc(list, func(x, y backend.ImportedMailbox) int { return strings.Compare(string(x.Name), string(y.Name)) })
	return list, closeWith(it, nil)
}

// wasSealed reports whether an import ever sealed the mailbox.
func (r *mailboxRecord) wasSealed() bool { return r.Remembered != 0 }

// Remove implements backend.Import.
func (i *userImport) Remove(ctx context.Context, name backend.MailboxName) error {
	e := i.command(cmdImportRemove)
	e.string(string(name))
	d, err := i.propose(ctx, e)
	if err != nil {
		return err
	}
	if d.bool() {
		return i.store.purge(ctx, i.shard, i.user.ID)
	}
	return nil
}

// Subscriptions implements backend.Import. What is so already costs no command: a
// pass over an account in which nothing changed says it, too.
func (i *userImport) Subscriptions(ctx context.Context, names []backend.MailboxName) error {
	v, err := i.store.view(ctx, i.shard)
	if err != nil {
		return err
	}
	have, err := readSubscriptions(v, i.user.ID)
	v.Close()
	if err != nil {
		return engineError(err)
	}
	want := slices.Compact(slices.Sorted(slices.Values(names)))
	slices.Sort(have)
	if slices.Equal(have, want) {
		return nil
	}
	e := i.command(cmdImportSubscribe)
	encodeStrings(e, names)
	_, err = i.propose(ctx, e)
	return err
}

// Activate implements backend.Import. The shard decides; the record in the Meta
// shard follows, and an Activate repeated after a crash between them mends it.
func (i *userImport) Activate(ctx context.Context, epoch uint64) error {
	return i.open(ctx, cmdImportActivate, epoch, UserActive)
}

// Reopen implements backend.Import. It also forbids every Activate of this
// epoch that may still be under way.
func (i *userImport) Reopen(ctx context.Context, epoch uint64) error {
	return i.open(ctx, cmdImportReopen, epoch, UserImporting)
}

func (i *userImport) open(ctx context.Context, cmd byte, epoch uint64, state UserState) error {
	e := i.command(cmd)
	e.uint(epoch)
	if _, err := i.propose(ctx, e); err != nil {
		return err
	}
	_, err := i.store.setUser(ctx, i.user.Name, func(u *User) error {
		if u.ID != i.user.ID {
			return errNoAccount
		}
		u.State = state
		return nil
	})
	return err
}

// Digest implements backend.Import. It reads counters that every change keeps.
func (i *userImport) Digest(ctx context.Context, name backend.MailboxName) (backend.MailboxDigest, error) {
	v, err := i.store.view(ctx, i.shard)
	if err != nil {
		return backend.MailboxDigest{}, err
	}
	defer v.Close()
	id, err := findMailbox(v, i.user.ID, name)
	if err != nil {
		return backend.MailboxDigest{}, err
	}
	raw, err := v.Get(mailboxKey(prefixMailbox, i.user.ID, id))
	if err != nil {
		return backend.MailboxDigest{}, engineError(err)
	}
	rec, err := decodeMailbox(raw)
	if err != nil {
		return backend.MailboxDigest{}, engineError(err)
	}
	return backend.MailboxDigest{UIDValidity: rec.UIDValidity, UIDNext: rec.UIDNext, HighestModSeq: rec.HighestModSeq,
		Count: rec.Messages, Messages: rec.Sum}, nil
}

// mailboxImport implements backend.MailboxImport.
type mailboxImport struct {
	*userImport
	mailbox uint64
}

func (m *mailboxImport) command(cmd byte) *encoder {
	e := m.userImport.command(cmd)
	e.uint(m.mailbox)
	return e
}

// importBodyWriter gives a writer of bodies the contract's name for a body.
type importBodyWriter struct{ engine.BodyWriter }

// Write gives the engine's errors a kind.
func (w importBodyWriter) Write(p []byte) (int, error) {
	n, err := w.BodyWriter.Write(p)
	return n, engineError(err)
}

func (w importBodyWriter) Finish() (backend.Body, error) {
	b, err := w.BodyWriter.Finish()
	if err != nil {
		return nil, engineError(err)
	}
	return b, nil
}

// NewBody implements backend.MailboxImport.
func (m *mailboxImport) NewBody(ctx context.Context) (backend.BodyWriter, error) {
	w, err := newBulkBody(ctx, m.shard)
	if err != nil {
		return nil, err
	}
	return importBodyWriter{w}, nil
}

const (
	// putMessages, putOctets and putBodies bound one command of Put: messages,
	// encoded octets, and octets of bodies that may ride in the command.
	putMessages = 500
	putOctets   = engine.MaxCommand / 2
	putBodies   = 8 << 20
	inlineBody  = 256 << 10
)

// Put implements backend.MailboxImport. Many messages go in several commands.
func (m *mailboxImport) Put(ctx context.Context, msgs []backend.ImportMessage) error {
	bodies := make([]engine.StagedBody, len(msgs))
	for i := range msgs {
		b, ok := msgs[i].Body.(engine.StagedBody)
		if !ok {
			return backend.Errorf(backend.KindBug, "", "import: body %d is not of this store", i)
		}
		bodies[i] = b
	}
	for len(msgs) > 0 {
		e, n := m.encodePut(msgs, bodies)
		if _, err := m.propose(ctx, e, bodies[:n]...); err != nil {
			discard(bodies[n:])
			return err
		}
		m.store.meters.imported.Add(float64(n))
		msgs, bodies = msgs[n:], bodies[n:]
	}
	return nil
}

// encodePut encodes as many messages as one command may hold, at least one.
func (m *mailboxImport) encodePut(msgs []backend.ImportMessage, bodies []engine.StagedBody) (e *encoder, n int) {
	list, octets := encoder{}, int64(0)
	for n < len(msgs) && n < putMessages && len(list.b) < putOctets && octets < putBodies {
		msg := &msgs[n]
		list.uint(uint64(msg.UID))
		list.uint(msg.ModSeq)
		encodeStrings(&list, msg.Flags)
		list.stamp(stampOf(msg.InternalDate))
		saved := int64(0)
		if !msg.SaveDate.IsZero() {
			saved = msg.SaveDate.Unix()
		}
		list.int(saved)
		list.int(msg.Body.Size())
		list.sum(msg.Body.Digest())
		list.string(msg.UIDL)
		list.bytes(structureOf(bodies[n]))
		octets += min(msg.Body.Size(), inlineBody)
		n++
	}
	e = m.command(cmdImportPutParsed)
	e.uint(uint64(n))
	e.b = append(e.b, list.b...)
	return e, n
}

// SetFlags implements backend.MailboxImport.
func (m *mailboxImport) SetFlags(ctx context.Context, updates []backend.ImportFlags) error {
	for len(updates) > 0 {
		list, n := encoder{}, 0
		for n < len(updates) && n < stepMessages && len(list.b) < putOctets {
			list.uint(uint64(updates[n].UID))
			list.uint(updates[n].ModSeq)
			encodeStrings(&list, updates[n].Flags)
			n++
		}
		e := m.command(cmdImportFlags)
		e.uint(uint64(n))
		e.b = append(e.b, list.b...)
		if _, err := m.propose(ctx, e); err != nil {
			return err
		}
		updates = updates[n:]
	}
	return nil
}

// Vanish implements backend.MailboxImport.
func (m *mailboxImport) Vanish(ctx context.Context, uids imap.UIDSet, modseq uint64) error {
	return inSteps(uids, func(part imap.UIDSet) (imap.UID, error) {
		e := m.command(cmdImportVanish)
		e.uint(modseq)
		e.uidSet(part)
		d, err := m.propose(ctx, e)
		if err != nil {
			return 0, err
		}
		return imap.UID(d.uint32()), engineError(d.end())
	})
}

// Seal implements backend.MailboxImport.
func (m *mailboxImport) Seal(ctx context.Context, uidNext uint32, highestModSeq uint64, firstRecent uint32) error {
	e := m.command(cmdImportSeal)
	e.uint(uint64(uidNext))
	e.uint(highestModSeq)
	e.uint(uint64(firstRecent))
	_, err := m.propose(ctx, e)
	return err
}

// Messages implements backend.MailboxImport. It holds a view until it ends.
func (m *mailboxImport) Messages(ctx context.Context) iter.Seq2[backend.ImportedMessage, error] {
	return func(yield func(backend.ImportedMessage, error) bool) {
		v, err := m.store.view(ctx, m.shard)
		if err != nil {
			yield(backend.ImportedMessage{}, err)
			return
		}
		s, err := newSnapshot(v, m.user.ID, m.mailbox)
		if err != nil {
			v.Close()
			yield(backend.ImportedMessage{}, err)
			return
		}
		defer s.Close()
		for msg, err := range s.Messages(allUIDs()) {
			if !yield(backend.ImportedMessage{UID: msg.UID, ModSeq: msg.ModSeq, InternalDate: msg.InternalDate,
				Flags: msg.Flags, Size: msg.Size, Digest: msg.Digest}, err) {
				return
			}
		}
	}
}
