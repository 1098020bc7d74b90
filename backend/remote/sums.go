package remote

import (
	"context"
	"encoding/hex"
	"errors"
	"hash"
	"io"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
)

// ServerSums asks the store for the SHA-1 of whole messages of the selected
// mailbox, 40 octets each, where it is one that can tell: Cyrus has DIGEST.SHA1
// and announces it nowhere. fn gets what came; a message without one is left
// out. ok is false when the store does not know the item, and then nothing came.
func (c *Client) ServerSums(ctx context.Context, uids imap.UIDSet, fn func(uid imap.UID, sha1 []byte) error) (ok bool, err error) {
	if c.profile.Type != backend.StoreCyrus {
		return false, nil
	}
	err = c.FetchItems(ctx, uids, "DIGEST.SHA1", func(uid imap.UID, values map[string]Value) error {
		sum, err := hex.DecodeString(values["DIGEST.SHA1"].Text)
		if err != nil || len(sum) != 20 {
			return nil
		}
		return fn(uid, sum)
	})
	if se := (*StatusError)(nil); errors.As(err, &se) {
		return false, nil
	}
	return err == nil, err
}

// BodySums fetches the bodies of messages of the selected mailbox and gives fn
// their size and h's sum, in the order in which they come. Messages that the
// store does not give are left out; sizes, by the place in uids, help to keep
// the pipe full.
func (c *Client) BodySums(ctx context.Context, uids []imap.UID, size func(i int) int64, h hash.Hash,
	fn func(uid imap.UID, size int64, sum []byte) error) error {
	return c.FetchBodies(ctx, &summer{uids: uids, size: size, h: h, fn: fn, buf: make([]byte, 64<<10)}, Window{Octets: 8 << 20, Commands: sumCommands})
}

// summer is the BodySource of BodySums.
type summer struct {
	uids []imap.UID
	size func(i int) int64
	h    hash.Hash
	fn   func(imap.UID, int64, []byte) error
	buf  []byte
	next int
	sum  []byte
	read bool
}

// A share of a mailbox has many gaps, so its sets are long: all commands ahead
// of their answers have to fit into the buffers on the way, for a store reads
// none while its answers are not taken.
const (
	sumMessages = 100
	sumOctets   = 512 << 10
	sumCommands = 12
)

func (s *summer) NextSet() (set imap.UIDSet, octets int64, ok bool) {
	for n := 0; s.next < len(s.uids) && n < sumMessages && octets < sumOctets; n++ {
		uid := s.uids[s.next]
		octets += s.size(s.next) + 256
		s.next++
		if k := len(set); k > 0 && set[k-1].Stop+1 == uid {
			set[k-1].Stop = uid
		} else {
			set = append(set, imap.UIDRange{Start: uid, Stop: uid})
		}
	}
	return set, octets, len(set) > 0
}

func (s *summer) Body(size int64, r io.Reader) error {
	s.h.Reset()
	n, err := io.CopyBuffer(struct{ io.Writer }{s.h}, struct{ io.Reader }{r}, s.buf)
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	s.sum, s.read = s.h.Sum(s.sum[:0]), err == nil
	return err
}

func (s *summer) Message(m *Meta) error {
	read := s.read
	s.read = false
	if !read || m.UID == 0 || m.Body != BodyRead {
		return nil
	}
	return s.fn(m.UID, m.BodySize, s.sum)
}

func (s *summer) Answered(imap.UIDSet, error) error { return nil }
