package migrate

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
)

// contentIDs remembers, in a file of one account, the ids by which the old store
// names what it gave, so that a message that was moved there is found in the new
// store and not fetched again. It may be lost, or lack something, at any time:
// then more is fetched. What it says is a hint that is checked before it is
// followed. Safe for concurrent use.
//
// The file is a sequence of records of idRecord octets: a message with the hash
// of its id, the number of its mailbox, its UID and the beginning of its digest.
// A second one, beside it, is of mailboxes: what a number's mailbox is called now,
// and whether messages were filed there by their ids; it is all that a user costs
// in whom nothing changed. Records that more than speed depends
// on are with the kernel, and so outlive this process, before what they tell of
// is done: that messages are filed by their ids, and that mailboxes change their
// names.
type contentIDs struct {
	path string

	mu       sync.Mutex
	messages idFile
	boxes    idFile
	lied     bool // the old store's ids are not to be believed
	cleared  bool // and what was filed by them is gone
	loaded   bool
	names    map[idName]uint32 // the mailboxes' numbers
	called   map[uint32]idName
	objects  map[uint32]idHash // ids of mailboxes, as far as told
	filed    map[uint32]bool   // mailboxes that got messages by their ids
	last     uint32
}

type (
	idHash [15]byte // of an id; zero: none
	idName [8]byte  // of a mailbox's name and UIDVALIDITY
)

// idRecord is the length of a record: kind, idHash, number, UID, idDigest.
const (
	idRecord = 1 + 15 + 4 + 4 + 12

	idFetched = 1 // a message that was read
	idFiled   = 2 // one that was filed without; in the file of mailboxes: its mailbox has such
	idMailbox = 3 // number, and its idName in the place of the digest
	idLied    = 4
	idCleared = 5 // what was filed before is gone
)

type idDigest [12]byte // how a SHA-256 begins

// idPlace is where the new store had the content of an id.
type idPlace struct {
	box    idName
	uid    imap.UID
	digest idDigest
}

func newContentIDs(path string) *contentIDs { return &contentIDs{path: path} }

// hashID makes the key of an id.
func hashID(id []byte) (h idHash) {
	if len(id) > 0 {
		sum := sha256.Sum256(id)
		copy(h[:], sum[:])
	}
	return h
}

func nameOf(name backend.MailboxName, validity uint32) (n idName) {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s", validity, name))
	copy(n[:], sum[:])
	return n
}

// boxesFile is the file of mailboxes beside a file of messages.
func boxesFile(path string) string { return path + ".boxes" }

// open reads what is known of mailboxes; callers hold mu.
func (c *contentIDs) open() error {
	if c.boxes.f != nil {
		return nil
	}
	err := c.boxes.open(boxesFile(c.path))
	if err == nil && c.boxes.size == 0 { // messages of mailboxes that nobody knows
		if e := os.Truncate(c.path, 0); !errors.Is(e, fs.ErrNotExist) {
			err = e
		}
	}
	if err == nil && !c.loaded {
		err = c.load()
	}
	if err != nil {
		_ = c.shut()
	}
	return err
}

// openMessages is open with the file of messages; callers hold mu.
func (c *contentIDs) openMessages() error {
	if err := c.open(); err != nil || c.messages.f != nil {
		return err
	}
	return c.messages.open(c.path)
}

func (c *contentIDs) load() error {
	c.names, c.called, c.objects, c.filed = make(map[idName]uint32), make(map[uint32]idName), make(map[uint32]idHash), make(map[uint32]bool)
	err := c.boxes.scan(func(r []byte) {
		switch number := binary.BigEndian.Uint32(r[16:]); r[0] {
		case idMailbox:
			c.call(number, idName(r[24:32]), idHash(r[1:16]))
		case idFiled:
			c.filed[number] = true
		case idLied:
			c.lied = true
		case idCleared:
			c.cleared = true
		}
	})
	c.loaded = err == nil
	return err
}

// call gives a number's mailbox its name; callers hold mu.
func (c *contentIDs) call(number uint32, name idName, object idHash) {
	if old, ok := c.called[number]; ok && c.names[old] == number {
		delete(c.names, old)
	}
	c.called[number], c.names[name], c.objects[number] = name, number, object
	c.last = max(c.last, number)
}

// idFile is a file of records. The zero value is closed.
type idFile struct {
	f    *os.File // nil while closed
	w    *bufio.Writer
	size int64 // octets, buffered ones included
}

func (i *idFile) open(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err == nil {
		i.size = st.Size() - st.Size()%idRecord // a crash may have torn the last one
		_, err = f.Seek(i.size, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return err
	}
	i.f, i.w = f, bufio.NewWriterSize(f, 16<<10)
	return nil
}

// scan reads all records.
func (i *idFile) scan(fn func(record []byte)) error {
	if err := i.w.Flush(); err != nil {
		return err
	}
	r := bufio.NewReaderSize(io.NewSectionReader(i.f, 0, i.size), int(min(64<<10, i.size)))
	var record [idRecord]byte
	for {
		_, err := io.ReadFull(r, record[:])
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		fn(record[:])
	}
}

func (i *idFile) write(kind byte, id idHash, number uint32, uid imap.UID, rest []byte) error {
	var r [idRecord]byte
	r[0] = kind
	copy(r[1:], id[:])
	binary.BigEndian.PutUint32(r[16:], number)
	binary.BigEndian.PutUint32(r[20:], uint32(uid))
	copy(r[24:], rest)
	i.size += idRecord
	_, err := i.w.Write(r[:])
	return err
}

func (i *idFile) shut() error {
	if i.f == nil {
		return nil
	}
	err := errors.Join(i.w.Flush(), i.f.Close())
	*i = idFile{}
	return err
}

// number is that of a mailbox, a new one for a new mailbox; its record is with the
// kernel before any of a message. Callers hold mu.
func (c *contentIDs) number(name idName, object idHash) (uint32, error) {
	n, ok := c.names[name]
	if ok && (object == idHash{} || c.objects[n] == object) {
		return n, nil
	}
	if !ok {
		n = c.last + 1
	}
	c.call(n, name, object)
	return n, errors.Join(c.boxes.write(idMailbox, object, n, 0, name[:]), c.boxes.w.Flush())
}

// add files a message of a mailbox that was read under its id. The zero id adds
// nothing.
func (c *contentIDs) add(box idName, id idHash, uid imap.UID, digest [32]byte) error {
	if (id == idHash{}) {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.openMessages(); err != nil {
		return err
	}
	n, err := c.number(box, idHash{})
	if err != nil {
		return err
	}
	return c.messages.write(idFetched, id, n, uid, digest[:len(idDigest{})])
}

// filing is one message that is to be filed by its id.
type filing struct {
	id     idHash
	uid    imap.UID
	digest [32]byte
}

// filing tells that messages of a mailbox are going to be filed by their ids.
func (c *contentIDs) filing(box idName, list []filing) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.openMessages(); err != nil {
		return err
	}
	n, err := c.number(box, idHash{})
	if err != nil {
		return err
	}
	if !c.filed[n] {
		c.filed[n] = true
		if err := errors.Join(c.boxes.write(idFiled, idHash{}, n, 0, nil), c.boxes.w.Flush()); err != nil {
			return err
		}
	}
	for _, f := range list {
		if err := c.messages.write(idFiled, f.id, n, f.uid, f.digest[:len(idDigest{})]); err != nil {
			return err
		}
	}
	return c.messages.w.Flush()
}

// hasFiled reports whether a mailbox may hold messages that were filed by their
// ids.
func (c *contentIDs) hasFiled(box idName) bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.open(); err != nil {
		return false
	}
	for n, name := range c.called {
		if name == box && c.filed[n] {
			return true
		}
	}
	return false
}

// object is the id that a mailbox had when it was noted last; zero: not known.
func (c *contentIDs) object(box idName) (idHash, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.open(); err != nil {
		return idHash{}, err
	}
	if n, ok := c.names[box]; ok {
		return c.objects[n], nil
	}
	return idHash{}, nil
}

// note files the id of a mailbox.
func (c *contentIDs) note(box idName, object idHash) error {
	if (object == idHash{}) {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.open(); err != nil {
		return err
	}
	n, known := c.names[box]
	if known && c.objects[n] == object {
		return nil
	}
	if _, err := c.number(box, object); err != nil {
		return err
	}
	return c.boxes.w.Flush()
}

// idMove is the new name of a mailbox, and the id that it keeps.
type idMove struct {
	to     idName
	object idHash
}

// renaming tells that mailboxes are going to get other names. Whether they got
// them is open until rename says so: until then nobody relies on the OBJECTIDs
// of either, and both names count as those of mailboxes that hold what was filed.
func (c *contentIDs) renaming(moves map[idName]idMove) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.open(); err != nil {
		return err
	}
	for from, m := range moves {
		for _, name := range []idName{from, m.to} {
			if k, ok := c.names[name]; ok {
				c.call(k, name, idHash{})
				if err := c.boxes.write(idMailbox, idHash{}, k, 0, name[:]); err != nil {
					return err
				}
			}
		}
		if n, ok := c.names[from]; ok && c.filed[n] {
			c.last++
			c.called[c.last], c.filed[c.last] = m.to, true
			if err := c.mark(c.last); err != nil {
				return err
			}
		}
	}
	return c.boxes.w.Flush()
}

// mark writes what is to be known of a number's mailbox without any of its
// messages.
func (c *contentIDs) mark(n uint32) error {
	name := c.called[n]
	if err := c.boxes.write(idMailbox, c.objects[n], n, 0, name[:]); err != nil || !c.filed[n] {
		return err
	}
	return c.boxes.write(idFiled, idHash{}, n, 0, nil)
}

// rename gives mailboxes other names, all at once.
func (c *contentIDs) rename(moves map[idName]idMove) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.open(); err != nil {
		return err
	}
	numbers := make(map[uint32]idMove, len(moves))
	for from, m := range moves {
		if n, ok := c.names[from]; ok {
			numbers[n] = m
		}
	}
	for n, m := range numbers {
		c.call(n, m.to, m.object)
		if err := c.boxes.write(idMailbox, m.object, n, 0, m.to[:]); err != nil {
			return err
		}
	}
	return c.boxes.w.Flush()
}

// find calls fn for what is known of the ids that want names, the oldest first.
func (c *contentIDs) find(want func(idHash) bool, fn func(idHash, idPlace)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.openMessages(); err != nil {
		return err
	}
	return c.messages.scan(func(r []byte) {
		if r[0] != idFetched && r[0] != idFiled {
			return
		}
		id := idHash(r[1:16])
		if name, ok := c.called[binary.BigEndian.Uint32(r[16:])]; ok && want(id) {
			fn(id, idPlace{name, imap.UID(binary.BigEndian.Uint32(r[20:])), idDigest(r[24:36])})
		}
	})
}

// empty reports that there is nothing to find, or that what there is is not to
// be believed.
func (c *contentIDs) empty() (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.openMessages(); err != nil {
		return true, err
	}
	return c.messages.size == 0 || c.lied, nil
}

// distrust ends the use of the ids for good. What was filed by them is to be
// dropped.
func (c *contentIDs) distrust() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.open(); err != nil || c.lied {
		return err
	}
	c.lied = true
	if err := c.boxes.write(idLied, idHash{}, 0, 0, nil); err != nil {
		return err
	}
	return c.boxes.w.Flush()
}

// doubtful names the mailboxes that are to be dropped, for messages in them were
// filed by ids that are not believed any more; nil when that was done.
func (c *contentIDs) doubtful() (boxes map[idName]bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.open(); err != nil || !c.lied || c.cleared {
		return nil, err
	}
	boxes = make(map[idName]bool, len(c.filed))
	for n := range c.filed {
		boxes[c.called[n]] = true
	}
	return boxes, nil
}

// dropped tells that what doubtful named is gone.
func (c *contentIDs) dropped() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.open(); err != nil {
		return err
	}
	c.cleared = true
	if err := c.boxes.write(idCleared, idHash{}, 0, 0, nil); err != nil {
		return err
	}
	return c.boxes.w.Flush()
}

// trim forgets the messages when their file has grown far beyond the account.
func (c *contentIDs) trim(messages int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.messages.f == nil || c.lied || c.messages.size/idRecord < 4*int64(messages)+100_000 {
		return nil
	}
	if err := c.messages.shut(); err != nil {
		return err
	}
	return os.Truncate(c.path, 0)
}

// close flushes and closes the files; the next use opens them again.
func (c *contentIDs) close() error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shut()
}

func (c *contentIDs) shut() error { return errors.Join(c.boxes.shut(), c.messages.shut()) }

// remove deletes the files of an account that needs it no more.
func (c *contentIDs) remove() error {
	if c == nil {
		return nil
	}
	return errors.Join(c.close(), removeIDs(c.path))
}

// removeIDs deletes a file of ids and that of their mailboxes, if there are any.
func removeIDs(path string) error {
	var all error
	for _, p := range []string{path, boxesFile(path)} {
		if err := os.Remove(p); !errors.Is(err, fs.ErrNotExist) {
			all = errors.Join(all, err)
		}
	}
	return all
}
