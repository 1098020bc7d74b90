package target

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/emersion/go-imap/v2"
)

// state says what is known of a message.
type state uint8

const (
	stateGone    state = iota // not at the target
	stateDoubt                // sent, or about to be, and not answered
	stateStored               // at the target under dst
	stateRefused              // the target will not take it
)

// record is one message: 32 octets on disk, so that none is torn by a sector's
// edge.
type record struct {
	src, dst uint32 // dst of one in doubt: the target's UIDNEXT before it was sent
	size     uint32
	flags    uint32 // in the flag table: as the source has them
	state    state
	digest   digest
}

const (
	recordSize = 32
	headerSize = 128
	mapMagic   = "mfmap01\n"
	flagMask   = 1<<28 - 1
)

// mapHeader are a mailbox's counters. Those of the source are as of the last
// Seal, those of the target as of the same moment.
type mapHeader struct {
	SrcValidity, DstValidity uint32
	UIDNext, Count           uint32
	FirstRecent              uint32
	ModSeq                   uint64
	DstMessages, DstUIDNext  uint32
	// Of the messages up to source UID Reread, RereadPercent were read again.
	Reread, RereadPercent uint32
}

// uidMap is the map of one mailbox, and its journal. Safe for concurrent use.
// In memory it is 8 octets a message.
type uidMap struct {
	path string

	mu     sync.Mutex
	f      *os.File
	flagsF *os.File
	head   mapHeader
	slots  []slot // by src, ascending
	used   uint32 // records in the file
	lists  [][]imap.Flag
	index  map[string]uint32
	doubts int
	stored uint32
}

type slot struct{ src, n uint32 }

var errMapDamaged = errors.New("the map of UIDs is damaged")

// openMap opens or makes a map.
func openMap(path string) (*uidMap, error) {
	m := &uidMap{path: path, index: make(map[string]uint32)}
	var err error
	if m.f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	if m.flagsF, err = os.OpenFile(path+".flags", os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		m.f.Close()
		return nil, err
	}
	if err := errors.Join(m.readFlags(), m.read()); err != nil {
		m.close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

func (m *uidMap) close() {
	_ = m.f.Close()
	_ = m.flagsF.Close()
}

func (m *uidMap) readFlags() error {
	b, err := io.ReadAll(m.flagsF)
	if err != nil {
		return err
	}
	whole := b[:bytes.LastIndexByte(b, '\n')+1]
	for line := range bytes.Lines(whole) {
		m.learn(strings.TrimSuffix(string(line), "\n"))
	}
	if err := m.flagsF.Truncate(int64(len(whole))); err != nil {
		return err
	}
	_, err = m.flagsF.Seek(0, io.SeekEnd)
	return err
}

func (m *uidMap) learn(key string) uint32 {
	var list []imap.Flag
	for f := range strings.FieldsSeq(key) {
		list = append(list, imap.Flag(f))
	}
	n := uint32(len(m.lists))
	m.lists = append(m.lists, list)
	m.index[key] = n
	return n
}

// flagList is the number of a list; callers hold mu.
func (m *uidMap) flagList(flags []imap.Flag) (uint32, error) {
	var b strings.Builder
	for _, f := range flags {
		b.WriteString(string(f))
		b.WriteByte(' ')
	}
	if n, ok := m.index[b.String()]; ok {
		return n, nil
	}
	if len(m.lists) > flagMask {
		return 0, errors.New("too many lists of flags")
	}
	if _, err := m.flagsF.WriteString(b.String() + "\n"); err != nil {
		return 0, err
	}
	return m.learn(b.String()), nil
}

// read takes over the file; a torn end is cut off.
func (m *uidMap) read() error {
	st, err := m.f.Stat()
	if err != nil {
		return err
	}
	if st.Size() < headerSize {
		return m.writeHead()
	}
	if err := m.readHead(); err != nil {
		return err
	}
	r := bufio.NewReaderSize(io.NewSectionReader(m.f, headerSize, st.Size()-headerSize), 256<<10)
	buf := make([]byte, recordSize)
	for {
		if _, err := io.ReadFull(r, buf); err != nil {
			break
		}
		rec, ok := decode(buf)
		m.used++
		if !ok { // written when the machine died: nothing was sent after it
			continue
		}
		m.count(rec.state, 1)
		m.slots = append(m.slots, slot{rec.src, m.used - 1})
	}
	// The last record of a UID counts.
	slices.SortStableFunc(m.slots, func(a, b slot) int { return int(int64(a.src) - int64(b.src)) })
	out := m.slots[:0]
	for _, s := range m.slots {
		if k := len(out); k > 0 && out[k-1].src == s.src {
			old, err := m.at(out[k-1].n)
			if err != nil {
				return err
			}
			m.count(old.state, -1)
			out[k-1] = s
			continue
		}
		out = append(out, s)
	}
	m.slots = out
	return nil
}

func (m *uidMap) count(s state, by int) {
	switch s {
	case stateDoubt:
		m.doubts += by
	case stateStored:
		m.stored += uint32(by)
	}
}

func encode(b []byte, r *record) {
	binary.LittleEndian.PutUint32(b, r.src)
	binary.LittleEndian.PutUint32(b[4:], r.dst)
	binary.LittleEndian.PutUint32(b[8:], r.size)
	binary.LittleEndian.PutUint32(b[12:], r.flags&flagMask|uint32(r.state)<<28)
	copy(b[16:28], r.digest[:])
	binary.LittleEndian.PutUint32(b[28:], crc32.ChecksumIEEE(b[:28]))
}

func decode(b []byte) (r record, ok bool) {
	r = record{src: binary.LittleEndian.Uint32(b), dst: binary.LittleEndian.Uint32(b[4:]), size: binary.LittleEndian.Uint32(b[8:])}
	f := binary.LittleEndian.Uint32(b[12:])
	r.flags, r.state = f&flagMask, state(f>>28)
	copy(r.digest[:], b[16:28])
	return r, r.src != 0 && crc32.ChecksumIEEE(b[:28]) == binary.LittleEndian.Uint32(b[28:])
}

func (m *uidMap) readHead() error {
	b := make([]byte, headerSize)
	if _, err := m.f.ReadAt(b, 0); err != nil {
		return err
	}
	if string(b[:8]) != mapMagic || crc32.ChecksumIEEE(b[:124]) != binary.LittleEndian.Uint32(b[124:]) {
		return errMapDamaged
	}
	_, err := binary.Decode(b[8:], binary.LittleEndian, &m.head)
	return err
}

func (m *uidMap) writeHead() error {
	b := make([]byte, headerSize)
	copy(b, mapMagic)
	if _, err := binary.Encode(b[8:], binary.LittleEndian, &m.head); err != nil {
		return err
	}
	binary.LittleEndian.PutUint32(b[124:], crc32.ChecksumIEEE(b[:124]))
	_, err := m.f.WriteAt(b, 0)
	return err
}

// setHead changes the counters.
func (m *uidMap) setHead(change func(*mapHeader)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	was := m.head
	if change(&m.head); m.head == was {
		return nil
	}
	return m.writeHead()
}

func (m *uidMap) header() mapHeader {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.head
}

// reset forgets every message: the mailbox on either side is another one.
func (m *uidMap) reset(head mapHeader) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.f.Truncate(headerSize); err != nil {
		return err
	}
	m.slots, m.used, m.doubts, m.stored, m.head = nil, 0, 0, 0, head
	if err := m.writeHead(); err != nil {
		return err
	}
	return m.f.Sync()
}

// at reads record n; callers hold mu.
func (m *uidMap) at(n uint32) (record, error) {
	var b [recordSize]byte
	if _, err := m.f.ReadAt(b[:], headerSize+int64(n)*recordSize); err != nil {
		return record{}, err
	}
	r, ok := decode(b[:])
	if !ok {
		return r, errMapDamaged
	}
	return r, nil
}

func (m *uidMap) put(n uint32, r *record) error {
	var b [recordSize]byte
	encode(b[:], r)
	_, err := m.f.WriteAt(b[:], headerSize+int64(n)*recordSize)
	return err
}

func (m *uidMap) find(src uint32) (int, bool) {
	if k := len(m.slots); k == 0 || m.slots[k-1].src < src {
		return k, false
	}
	return slices.BinarySearchFunc(m.slots, src, func(s slot, u uint32) int { return int(int64(s.src) - int64(u)) })
}

// get is what is known of a message.
func (m *uidMap) get(src imap.UID) (record, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, ok := m.find(uint32(src))
	if !ok {
		return record{}, false, nil
	}
	r, err := m.at(m.slots[i].n)
	return r, err == nil && r.state != stateGone, err
}

// intend records messages that are about to be sent; durable when it returns.
func (m *uidMap) intend(recs []record, flags [][]imap.Flag) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	buf := make([]byte, 0, len(recs)*recordSize)
	first := m.used
	for i := range recs {
		n, err := m.flagList(flags[i])
		if err != nil {
			return err
		}
		recs[i].flags, recs[i].state = n, stateDoubt
		buf = append(buf, make([]byte, recordSize)...)
		encode(buf[i*recordSize:], &recs[i])
	}
	if _, err := m.f.WriteAt(buf, headerSize+int64(first)*recordSize); err != nil {
		return err
	}
	if err := m.f.Sync(); err != nil {
		return err
	}
	m.used += uint32(len(recs))
	for i := range recs {
		j, ok := m.find(recs[i].src)
		if ok {
			old, err := m.at(m.slots[j].n)
			if err != nil {
				return err
			}
			m.count(old.state, -1)
			m.slots[j].n = first + uint32(i)
		} else {
			m.slots = slices.Insert(m.slots, j, slot{recs[i].src, first + uint32(i)})
		}
		m.count(stateDoubt, 1)
	}
	return nil
}

// file records messages that the target has, ascending by source UID. It is not
// synced: a listing of the target would tell the same again.
func (m *uidMap) file(recs []record, flags [][]imap.Flag) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range recs {
		n, err := m.flagList(flags[i])
		if err != nil {
			return err
		}
		recs[i].flags, recs[i].state = n, stateStored
		at := m.used
		j, known := m.find(recs[i].src)
		if known {
			old, err := m.at(m.slots[j].n)
			if err != nil {
				return err
			}
			m.count(old.state, -1)
		}
		if err := m.put(at, &recs[i]); err != nil {
			return err
		}
		m.used++
		if known {
			m.slots[j].n = at
		} else {
			m.slots = slices.Insert(m.slots, j, slot{recs[i].src, at})
		}
		m.count(stateStored, 1)
	}
	return nil
}

// settle says what became of a message.
func (m *uidMap) settle(src imap.UID, s state, dst imap.UID) error {
	return m.change(src, func(r *record) error {
		r.state, r.dst = s, uint32(dst)
		return nil
	})
}

// setFlags files the source's flags of a message that is stored.
func (m *uidMap) setFlags(src imap.UID, flags []imap.Flag) error {
	return m.change(src, func(r *record) (err error) {
		r.flags, err = m.flagList(flags)
		return err
	})
}

func (m *uidMap) change(src imap.UID, fn func(*record) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, ok := m.find(uint32(src))
	if !ok {
		return fmt.Errorf("UID %d is not in the map", src)
	}
	r, err := m.at(m.slots[i].n)
	if err != nil {
		return err
	}
	was := r.state
	if err := fn(&r); err != nil {
		return err
	}
	m.count(was, -1)
	m.count(r.state, 1)
	return m.put(m.slots[i].n, &r)
}

// flagsOf is list n of the flag table.
func (m *uidMap) flagsOf(n uint32) []imap.Flag {
	m.mu.Lock()
	defer m.mu.Unlock()
	if int(n) >= len(m.lists) {
		return nil
	}
	return m.lists[n]
}

// each tells the records in the order of the source's UIDs; records that fn
// changes meanwhile may be told as they were.
func (m *uidMap) each(fn func(r record) bool) error {
	m.mu.Lock()
	slots := slices.Clone(m.slots)
	m.mu.Unlock()
	var window [256 * recordSize]byte
	at, have := int64(-1), 0
	for _, s := range slots {
		off := headerSize + int64(s.n)*recordSize
		if at < 0 || off < at || off+recordSize > at+int64(have) {
			n, err := m.f.ReadAt(window[:], off)
			if n < recordSize {
				return errors.Join(errMapDamaged, err)
			}
			at, have = off, n-n%recordSize
		}
		r, ok := decode(window[off-at:][:recordSize])
		if !ok {
			return errMapDamaged
		}
		if r.state != stateGone && !fn(r) {
			return nil
		}
	}
	return nil
}

// counts are the messages stored, and those in doubt.
func (m *uidMap) counts() (stored uint32, doubts int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stored, m.doubts
}
