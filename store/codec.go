package store

import (
	"encoding/binary"
	"errors"

	"github.com/emersion/go-imap/v2"
)

// errCorrupt is what a decoder says of octets that no encoder wrote.
var errCorrupt = errors.New("store: corrupt encoding")

// encoder builds commands, results and records: varints, and strings after
// their length.
type encoder struct{ b []byte }

func (e *encoder) byte(v byte)     { e.b = append(e.b, v) }
func (e *encoder) uint(v uint64)   { e.b = binary.AppendUvarint(e.b, v) }
func (e *encoder) int(v int64)     { e.b = binary.AppendVarint(e.b, v) }
func (e *encoder) sum(v [32]byte)  { e.b = append(e.b, v[:]...) }
func (e *encoder) string(s string) { e.uint(uint64(len(s))); e.b = append(e.b, s...) }
func (e *encoder) bytes(p []byte)  { e.uint(uint64(len(p))); e.b = append(e.b, p...) }

func (e *encoder) bool(v bool) {
	if v {
		e.byte(1)
	} else {
		e.byte(0)
	}
}

func encodeStrings[S ~string](e *encoder, list []S) {
	e.uint(uint64(len(list)))
	for _, s := range list {
		e.string(string(s))
	}
}

// uidSet writes a normalised set as gaps and lengths.
func (e *encoder) uidSet(set imap.UIDSet) {
	e.uint(uint64(len(set)))
	var last imap.UID
	for _, r := range set {
		e.uint(uint64(r.Start - last))
		e.uint(uint64(r.Stop - r.Start))
		last = r.Stop
	}
}

// decoder reads what an encoder wrote. The first fault sticks; after it every
// read gives zero. Whatever the input, it allocates no more than a small
// multiple of its length.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail() { d.err, d.b = errCorrupt, nil }

// end reports a fault, or octets left over.
func (d *decoder) end() error {
	if d.err == nil && len(d.b) != 0 {
		d.fail()
	}
	return d.err
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) bool() bool { return d.byte() != 0 }

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) uint32() uint32 {
	v := d.uint()
	if v > 1<<32-1 {
		d.fail()
		return 0
	}
	return uint32(v)
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

// take returns the next n octets, without a copy.
func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	p := d.b[:n:n]
	d.b = d.b[n:]
	return p
}

// bytes returns a slice of the input; it must not outlive it.
func (d *decoder) bytes() []byte  { return d.take(d.uint()) }
func (d *decoder) string() string { return string(d.bytes()) }
func (d *decoder) sum() (v [32]byte) {
	copy(v[:], d.take(32))
	return v
}

// count reads the length of a list whose entries take at least one octet each.
func (d *decoder) count() int {
	n := d.uint()
	if n > uint64(len(d.b)) {
		d.fail()
		return 0
	}
	return int(n)
}

func (d *decoder) strings() []string { return decodeStrings[string](d) }

func decodeStrings[S ~string](d *decoder) []S {
	n := d.count()
	if n == 0 {
		return nil
	}
	list := make([]S, 0, min(n, 1024))
	for range n {
		list = append(list, S(d.string()))
	}
	return list
}

func (d *decoder) uidSet() imap.UIDSet {
	n := d.count()
	if n == 0 {
		return nil
	}
	set := make(imap.UIDSet, 0, min(n, 1024))
	var last uint64
	for range n {
		start := last + d.uint()
		stop := start + d.uint()
		if d.err != nil || start == 0 || stop > 1<<32-1 || stop < start {
			d.fail()
			return nil
		}
		set = append(set, imap.UIDRange{Start: imap.UID(start), Stop: imap.UID(stop)})
		last = stop
	}
	return set
}
