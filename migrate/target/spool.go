package target

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"hash/crc32"
	"io"
	"os"
	"sync"

	"mailferry/backend"
)

// memoryBody is how much of a message is held in memory; a larger one lies in a
// file without name.
const memoryBody = 1 << 20

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// digest is what a map keeps of a message's content: identity in 8 octets, and
// behind it a CRC of the very octets, which tells whether a store changed any.
type digest [12]byte

// id is the identity: the same for what a store may have changed.
func (d digest) id() [8]byte { return [8]byte(d[:8]) }

func (d digest) wide() (w [32]byte) {
	copy(w[:], d[:])
	return w
}

// identity digests a message so that it is known again when a store has
// rewritten it as stores do: SHA-256 of its octets without CR, which are added
// and taken away, and with NUL and, in the header, 8-bit octets replaced, as some
// stores do.
type identity struct {
	h       hash.Hash
	crc     uint32
	body    bool // behind the header
	blank   bool // at the beginning of a line
	scratch []byte
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func newIdentity() *identity { return &identity{h: sha256.New(), blank: true} }

func (d *identity) Write(p []byte) (int, error) {
	n := len(p)
	d.crc = crc32.Update(d.crc, castagnoli, p)
	for len(p) > 0 && !d.body {
		line, rest, ended := bytes.Cut(p, []byte("\n"))
		if text := bytes.TrimRight(line, "\r"); len(text) > 0 {
			d.blank = false
			d.plain(text, true)
		}
		if p = rest; ended {
			d.h.Write([]byte("\n"))
			d.body, d.blank = d.blank, true
		}
	}
	d.plain(p, false)
	return n, nil
}

// plain digests octets without CR, NUL and, in a header, 8-bit.
func (d *identity) plain(p []byte, header bool) {
	odd := bytes.IndexByte(p, 0) >= 0
	if header && !odd {
		odd = bytes.ContainsFunc(p, func(r rune) bool { return r >= 0x80 })
	}
	if odd {
		d.scratch = append(d.scratch[:0], p...)
		for i, c := range d.scratch {
			if c == 0 || header && c >= 0x80 {
				d.scratch[i] = 'X'
			} else if c == 0x80 {
				d.scratch[i] = 'X' // what a NUL becomes
			}
		}
		p = d.scratch
	} else if bytes.IndexByte(p, 0x80) >= 0 {
		p = bytes.ReplaceAll(p, []byte{0x80}, []byte{'X'})
	}
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\r')
		if i < 0 {
			d.h.Write(p)
			return
		}
		d.h.Write(p[:i])
		p = p[i+1:]
	}
}

func (d *identity) sum() (out digest) {
	copy(out[:8], d.h.Sum(nil))
	binary.BigEndian.PutUint32(out[8:], d.crc)
	return out
}

// body is a message on its way: backend.BodyWriter, then backend.Body.
type body struct {
	dir  string
	ctx  context.Context
	mem  *bytes.Buffer
	file *os.File // what is beyond memoryBody
	size int64
	id   *identity
	nul  bool
	sum  digest // once finished
}

func newBody(ctx context.Context, dir string) *body {
	b := buffers.Get().(*bytes.Buffer)
	b.Reset()
	return &body{dir: dir, ctx: ctx, mem: b, id: newIdentity()}
}

// Write implements io.Writer.
func (b *body) Write(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, context.Cause(b.ctx)
	}
	_, _ = b.id.Write(p)
	b.nul = b.nul || bytes.IndexByte(p, 0) >= 0
	b.size += int64(len(p))
	if b.file == nil && b.mem.Len()+len(p) <= memoryBody {
		return b.mem.Write(p)
	}
	if b.file == nil {
		f, err := os.CreateTemp(b.dir, "body-")
		if err != nil {
			return 0, err
		}
		_ = os.Remove(f.Name()) // it ends with us
		b.file = f
	}
	return b.file.Write(p)
}

// Finish implements backend.BodyWriter.
func (b *body) Finish() (backend.Body, error) {
	b.sum, b.id = b.id.sum(), nil
	return b, nil
}

// Abort implements backend.BodyWriter.
func (b *body) Abort() { b.Discard() }

// Size implements backend.Body.
func (b *body) Size() int64 { return b.size }

// Digest implements backend.Body: that of a map, with zeros behind.
func (b *body) Digest() [32]byte { return b.sum.wide() }

// Discard implements backend.Body; it may be called twice.
func (b *body) Discard() {
	if b.mem != nil && b.mem.Cap() <= 256<<10 {
		buffers.Put(b.mem)
	}
	b.mem = nil
	if b.file != nil {
		b.file.Close()
		b.file = nil
	}
}

// WriteTo writes the octets, as often as it is asked.
func (b *body) WriteTo(w io.Writer) (int64, error) {
	if b.mem == nil {
		return 0, errors.New("the body was discarded")
	}
	n, err := w.Write(b.mem.Bytes())
	if err != nil || b.file == nil {
		return int64(n), err
	}
	k, err := io.Copy(struct{ io.Writer }{w}, io.NewSectionReader(b.file, 0, b.size-int64(n)))
	return int64(n) + k, err
}
