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
// of its id, the number of its mailbox, its UID and the beginning of its digest;
// or what a number's mailbox is called now.
type contentIDs struct {
	path string

	mu      sync.Mutex
	f       *os.File // nil while closed
	w       *bufio.Writer
	size    int64 // octets, buffered ones included
	lied    bool  // the old store's ids are not to be believed
	loaded  bool
	names   map[idName]uint32 // the mailboxes' numbers
	called  map[uint32]idName
	objects map[uint32]idHash // ids of mailboxes, as far as told
	last    uint32
}

type (
	idHash [15]byte // of an id; zero: none
	idName [8]byte  // of a mailbox's name and UIDVALIDITY
)

// idRecord is the length of a record: kind, idHash, number, UID, idDigest.
const (
	idRecord = 1 + 15 + 4 + 4 + 12

	idFetched = 1 // a message that was read
	idFiled   = 2 // one that was filed without
	idMailbox = 3 // number, and its idName in the place of the digest
	idLied    = 4
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

// open reads what the file says of mailboxes; callers hold mu.
func (c *contentIDs) open() error {
	if c.f != nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(c.path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(c.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	c.f, c.w = f, bufio.NewWriterSize(f, 16<<10)
	if err := c.load(); err != nil {
		c.shut()
		return err
	}
	return nil
}

func (c *contentIDs) load() error {
	st, err := c.f.Stat()
	if err != nil {
		return err
	}
	c.size = st.Size() - st.Size()%idRecord // a crash may have torn the last one
	if _, err := c.f.Seek(c.size, io.SeekStart); err != nil || c.loaded {
		return err
	}
	c.names, c.called, c.objects = make(map[idName]uint32), make(map[uint32]idName), make(map[uint32]idHash)
	err = c.scan(func(r []byte) {
		switch r[0] {
		case idMailbox:
			c.call(binary.BigEndian.Uint32(r[16:]), idName(r[24:32]), idHash(r[1:16]))
		case idLied:
			c.lied = true
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

// scan reads all records; callers hold mu.
func (c *contentIDs) scan(fn func(record []byte)) error {
	if err := c.w.Flush(); err != nil {
		return err
	}
	r := bufio.NewReaderSize(io.NewSectionReader(c.f, 0, c.size), 64<<10)
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

func (c *contentIDs) write(kind byte, id idHash, number uint32, uid imap.UID, rest []byte) error {
	var r [idRecord]byte
	r[0] = kind
	copy(r[1:], id[:])
	binary.BigEndian.PutUint32(r[16:], number)
	binary.BigEndian.PutUint32(r[20:], uint32(uid))
	copy(r[24:], rest)
	c.size += idRecord
	_, err := c.w.Write(r[:])
	return err
}

// number is that of a mailbox, a new one for a new mailbox; callers hold mu.
func (c *contentIDs) number(name idName, object idHash) (uint32, error) {
	n, ok := c.names[name]
	if ok && (object == idHash{} || c.objects[n] == object) {
		return n, nil
	}
	if !ok {
		n = c.last + 1
	}
	c.call(n, name, object)
	return n, c.write(idMailbox, object, n, 0, name[:])
}

// add files a message of a mailbox under its id. filed: it was not fetched. The
// zero id adds nothing.
func (c *contentIDs) add(box idName, id idHash, uid imap.UID, digest [32]byte, filed bool) error {
	if (id == idHash{}) {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.open(); err != nil {
		return err
	}
	n, err := c.number(box, idHash{})
	if err != nil {
		return err
	}
	kind := byte(idFetched)
	if filed {
		kind = idFiled
	}
	return c.write(kind, id, n, uid, digest[:len(idDigest{})])
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
	_, err := c.number(box, object)
	return err
}

// rename gives mailboxes other names, all at once.
func (c *contentIDs) rename(moves map[idName]idName) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.open(); err != nil {
		return err
	}
	numbers := make(map[uint32]idName, len(moves))
	for from, to := range moves {
		if n, ok := c.names[from]; ok {
			numbers[n] = to
		}
	}
	for n, to := range numbers {
		object := c.objects[n]
		c.call(n, to, object)
		if err := c.write(idMailbox, object, n, 0, to[:]); err != nil {
			return err
		}
	}
	return nil
}

// find calls fn for what is known of the ids that want names, the oldest first.
func (c *contentIDs) find(want func(idHash) bool, fn func(idHash, idPlace)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.open(); err != nil {
		return err
	}
	return c.scan(func(r []byte) {
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
	if err := c.open(); err != nil {
		return true, err
	}
	return c.size == 0 || c.lied, nil
}

// distrust ends the use of the ids for good, and names the mailboxes that hold
// messages which were filed by them.
func (c *contentIDs) distrust() (boxes map[idName]bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.open(); err != nil {
		return nil, err
	}
	boxes = make(map[idName]bool)
	err = c.scan(func(r []byte) {
		if r[0] == idFiled {
			boxes[c.called[binary.BigEndian.Uint32(r[16:])]] = true
		}
	})
	if err != nil {
		return nil, err
	}
	c.lied = true
	if err := c.write(idLied, idHash{}, 0, 0, nil); err != nil {
		return nil, err
	}
	return boxes, c.w.Flush()
}

// trim forgets everything when the file has grown far beyond the account.
func (c *contentIDs) trim(messages int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.f == nil || c.lied || c.size/idRecord < 4*int64(messages)+100_000 {
		return nil
	}
	c.w.Reset(c.f)
	c.size, c.loaded = 0, false
	if err := c.f.Truncate(0); err != nil {
		return err
	}
	return c.load()
}

// close flushes and closes the file; the next use opens it again.
func (c *contentIDs) close() error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shut()
}

func (c *contentIDs) shut() error {
	if c.f == nil {
		return nil
	}
	err := errors.Join(c.w.Flush(), c.f.Close())
	c.f, c.w = nil, nil
	return err
}

// remove deletes the file of an account that needs it no more.
func (c *contentIDs) remove() error {
	if c == nil {
		return nil
	}
	err := c.close()
	if e := os.Remove(c.path); !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, e)
	}
	return err
}
