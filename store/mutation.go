package store

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/cluster/engine"
)

// mutation is one user's part of a command in Apply: the records it read,
// changed in memory and written back by commit.
type mutation struct {
	tx      engine.Tx
	user    uint64
	account *accountRecord
	boxes   map[uint64]*box
	opened  bool // account changed
	listing bool // mailboxes or subscriptions changed
}

var errNoAccount = backend.NewError(backend.KindNotFound, "no such user")

// begin reads the account. KindNotFound when the shard does not know the user.
func begin(tx engine.Tx, user uint64) (*mutation, error) {
	m := &mutation{tx: tx, user: user}
	raw, ok := get(tx, userKey(prefixAccount, user))
	if !ok {
		return nil, errNoAccount
	}
	m.account = must(decodeAccount(raw))
	return m, nil
}

// beginClient is begin for what clients and deliveries do: an import has the
// mailboxes for itself.
func beginClient(tx engine.Tx, user uint64) (*mutation, error) {
	m, err := begin(tx, user)
	if err == nil && m.account.State != accountActive {
		return nil, backend.NewError(backend.KindUnavailable, "mailbox is being moved")
	}
	return m, err
}

// beginImport is begin for an import, which is closed once the user is active.
func beginImport(tx engine.Tx, user uint64) (*mutation, error) {
	m, err := begin(tx, user)
	if err == nil && m.account.State != accountImporting {
		return nil, backend.NewError(backend.KindConflict, "user is active in this store")
	}
	return m, err
}

// get reads a key. A fault of the disk stops the replica: it must not decide
// differently from the others.
func get(r engine.Reader, key []byte) ([]byte, bool) {
	v, err := r.Get(key)
	if errors.Is(err, engine.ErrNotFound) {
		return nil, false
	}
	if err != nil {
		panic(fmt.Errorf("store: read in apply: %w", err))
	}
	return v, true
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// scan calls fn for the keys in [lower, upper) until it returns false.
func scan(r engine.Reader, lower, upper []byte, fn func(key, value []byte) bool) {
	it := r.Iter(lower, upper)
	for ok := it.First(); ok; ok = it.Next() {
		if !fn(it.Key(), it.Value()) {
			break
		}
	}
	if err := it.Close(); err != nil {
		panic(fmt.Errorf("store: scan in apply: %w", err))
	}
}

// commit writes the records back and wakes their watchers.
func (m *mutation) commit() {
	if m.opened {
		m.tx.Set(userKey(prefixAccount, m.user), m.account.encode())
	}
	ids := make([]uint64, 0, len(m.boxes))
	for id := range m.boxes {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		m.boxes[id].write()
	}
	if m.listing {
		m.tx.Publish(listTopic(m.user))
	}
}

func mailboxTopic(user, mailbox uint64) string {
	b := append(make([]byte, 0, 32), 'm')
	b = strconv.AppendUint(b, user, 16)
	b = append(b, '/')
	return string(strconv.AppendUint(b, mailbox, 16))
}

func listTopic(user uint64) string { return "l" + strconv.FormatUint(user, 16) }

const usersTopic = "users"

// box is a mailbox within a mutation.
type box struct {
	m            *mutation
	id           uint64
	rec          *mailboxRecord
	table        keywordTable
	tableRead    bool
	tableChanged bool
	bumped       bool
	changed      bool
	gone         bool
}

var errNoMailbox = backend.NewError(backend.KindNotFound, "no such mailbox")

// box reads a mailbox by id.
func (m *mutation) box(id uint64) (*box, error) {
	if b := m.boxes[id]; b != nil {
		return b, nil
	}
	if id > 1<<32-1 {
		return nil, errNoMailbox
	}
	raw, ok := get(m.tx, mailboxKey(prefixMailbox, m.user, id))
	if !ok {
		return nil, errNoMailbox
	}
	return m.hold(&box{m: m, id: id, rec: must(decodeMailbox(raw))}), nil
}

func (m *mutation) hold(b *box) *box {
	if m.boxes == nil {
		m.boxes = make(map[uint64]*box, 2)
	}
	m.boxes[b.id] = b
	return b
}

// lookup finds the id of a name.
func (m *mutation) lookup(name backend.MailboxName) (id uint64, ok bool) {
	if name == backend.Inbox && m.account.Inbox != 0 {
		return m.account.Inbox, true
	}
	raw, ok := get(m.tx, nameKey(prefixName, m.user, name))
	if !ok {
		return 0, false
	}
	d := decoder{b: raw}
	return d.uint(), true
}

// target finds a mailbox that can take messages; KindNotFound is TRYCREATE.
func (m *mutation) target(name backend.MailboxName) (*box, error) {
	id, ok := m.lookup(name)
	if !ok {
		return nil, errNoMailbox
	}
	b, err := m.box(id)
	if err == nil && b.rec.NoSelect {
		return nil, errNoMailbox
	}
	return b, err
}

// keywords reads the keyword table.
func (b *box) keywords() keywordTable {
	if !b.tableRead {
		if raw, ok := get(b.m.tx, mailboxKey(prefixKeywords, b.m.user, b.id)); ok {
			b.table = must(decodeKeywords(raw))
		}
		b.tableRead = true
	}
	return b.table
}

// intern turns flags into a set and remembers new keywords for commit.
func (b *box) intern(flags []imap.Flag) (flagSet, error) {
	if !hasKeywords(flags) {
		f, _, _ := keywordTable(nil).add(flags)
		return f, nil
	}
	old := b.keywords()
	f, table, ok := old.add(flags)
	if !ok {
		return flagSet{}, backend.NewError(backend.KindOverQuota, "too many keywords in this mailbox")
	}
	if len(table) > len(old) {
		b.table, b.tableChanged = table, true
	}
	return f, nil
}

func hasKeywords(flags []imap.Flag) bool {
	for _, f := range flags {
		if _, system := systemBit(f); !system {
			return true
		}
	}
	return false
}

// write stores the box's records and wakes its watchers.
func (b *box) write() {
	if b.gone || !b.changed {
		return
	}
	tx, user := b.m.tx, b.m.user
	if b.tableChanged {
		e := encoder{}
		e.byte(recordFormat)
		encodeStrings(&e, b.table)
		tx.Set(mailboxKey(prefixKeywords, user, b.id), e.b)
	}
	tx.Set(mailboxKey(prefixMailbox, user, b.id), b.rec.encode())
	tx.Publish(mailboxTopic(user, b.id))
}

func decodeKeywords(raw []byte) (keywordTable, error) {
	d := decoder{b: raw}
	if d.byte() != recordFormat {
		return nil, errCorrupt
	}
	t := keywordTable(d.strings())
	return t, d.end()
}
