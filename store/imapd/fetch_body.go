package imapd

import (
	"bytes"
	"context"
	"io"
	"slices"

	"mailferry/cluster/engine"
	"mailferry/store"
	"mailferry/store/message"
)

// bodies gives out the parts of one message for a FETCH. Octets are streamed;
// only filtered headers are held, which are bounded.
type bodies struct {
	ctx       context.Context
	s         *session
	blob      []byte // the structure that was kept with the message, if any
	m         store.Message
	structure *message.Message
	r         engine.BodyReader // open at offset at
	at        int64
	headers   map[*bodySection][]byte // filtered
}

// maxFiltered bounds what HEADER.FIELDS keeps in memory. A longer result is cut
// off: no honest header comes near.
const maxFiltered = 4 << 20

func (b *bodies) close() {
	if b.r != nil {
		b.r.Close()
	}
}

// prepare reads what the items need before a response is begun.
func (b *bodies) prepare(items []fetchItem) error {
	needOctets := slices.ContainsFunc(items, func(it fetchItem) bool { return it.section != nil })
	if needStructure(items) {
		if err := b.readStructure(); err != nil {
			return err
		}
	}
	if needOctets {
		if err := b.seek(0); err != nil {
			return err
		}
	}
	for _, it := range items {
		if it.section != nil && len(it.section.Names) > 0 {
			if err := b.filter(it.section); err != nil {
				return err
			}
		}
	}
	return nil
}

// needStructure reports whether the items ask for parts of a message.
func needStructure(items []fetchItem) bool {
	return slices.ContainsFunc(items, func(it fetchItem) bool {
		if it.section != nil {
			return len(it.section.Path) > 0 || it.section.Specifier != message.SectionAll
		}
		return it.name == "ENVELOPE" || it.name == "BODY" || it.name == "BODYSTRUCTURE"
	})
}

// readStructure takes the blob that was kept with the message, or parses.
func (b *bodies) readStructure() error {
	if b.structure != nil {
		return nil
	}
	cache, blob := b.s.server.structures, b.blob
	if blob == nil {
		blob, _ = cache.Get(b.m.Digest)
	}
	m := &message.Message{}
	if m.UnmarshalBinary(blob) != nil || m.Size != b.m.Size {
		if err := b.seek(0); err != nil {
			return err
		}
		var err error
		if m, err = message.Parse(b.r); err != nil {
			return err
		}
		b.at = m.Size
		if blob, err := m.MarshalBinary(); err == nil && len(blob) <= maxCachedStructure {
			cache.Add(b.m.Digest, blob)
		}
	}
	b.structure = m
	return nil
}

// cachedStructures of messages that have none in the store (too large a one, or
// one of another version) are kept by digest; with maxCachedStructure that is 64 MB at worst, and some
// 10 MB of usual mail.
const (
	cachedStructures   = 16 << 10
	maxCachedStructure = 4 << 10
)

// seek opens the message at an offset. Bodies are compressed: going back means
// to begin anew.
func (b *bodies) seek(to int64) error {
	if b.r == nil || to < b.at {
		b.close()
		r, err := b.s.account.OpenMessage(b.ctx, b.m)
		if err != nil {
			b.r = nil
			return err
		}
		b.r, b.at = r, 0
	}
	if to == b.at {
		return nil
	}
	n, err := io.CopyN(io.Discard, b.r, to-b.at)
	b.at += n
	return err
}

func (b *bodies) filter(sec *bodySection) error {
	var w bytes.Buffer
	if r, ok := b.structure.Find(sec.Section); ok {
		if err := b.seek(r.Start); err != nil {
			return err
		}
		_, err := message.FilterFields(&limited{&w, maxFiltered}, io.LimitReader(b.r, r.Len()), sec.Names,
			sec.Specifier == message.SectionFieldsNot)
		if err != nil {
			return err
		}
		b.at = r.End
	}
	if b.headers == nil {
		b.headers = map[*bodySection][]byte{}
	}
	b.headers[sec] = w.Bytes()
	return nil
}

// limited drops what exceeds n octets.
type limited struct {
	w io.Writer
	n int
}

func (l *limited) Write(p []byte) (int, error) {
	k := min(l.n, len(p))
	l.n -= k
	if _, err := l.w.Write(p[:k]); err != nil {
		return 0, err
	}
	return len(p), nil
}

// writeSection writes the octets of a section as a literal. A part that is not
// there is empty, as with Dovecot.
func (b *bodies) writeSection(sec *bodySection) {
	if h, ok := b.headers[sec]; ok {
		off, n := sec.clip(int64(len(h)))
		b.s.enc.Literal(bytes.NewReader(h[off:]), n)
		return
	}
	r := message.Range{End: b.m.Size}
	if b.structure != nil {
		r, _ = b.structure.Find(sec.Section)
	}
	off, n := sec.clip(r.Len())
	if n == 0 {
		b.s.enc.Text("{0}\r\n")
		return
	}
	if err := b.seek(r.Start + off); err != nil {
		b.s.lost(err)
		return
	}
	b.s.enc.Literal(b.r, n)
	b.at += n
	if err := b.s.conn.Writer.Err(); err != nil {
		b.s.log.Warn("message cut off on its way to the client", "uid", b.m.UID, "err", err)
	}
}

// lost gives the connection up in the middle of a response.
func (s *session) lost(err error) {
	s.log.Error("cannot read a message", "err", err)
	s.done = true
	s.conn.Kill()
}

// clip applies <offset.length> to a section of size octets.
func (sec *bodySection) clip(size int64) (offset, n int64) {
	if !sec.partial {
		return 0, size
	}
	if sec.offset >= uint64(size) {
		return size, 0
	}
	offset = int64(sec.offset)
	return offset, int64(min(sec.length, uint64(size-offset)))
}

func (b *bodies) writeStructure(item string) {
	var out []byte
	switch item {
	case "ENVELOPE":
		out = message.AppendEnvelope(nil, b.structure.Envelope)
	default:
		out = message.AppendStructure(nil, &b.structure.Part, item == "BODYSTRUCTURE")
	}
	b.s.enc.Write(out)
}
