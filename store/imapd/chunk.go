package imapd

import (
	"context"
	"slices"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/store"
)

// chunkMessages and chunkOctets (of structures) bound what is read of a mailbox
// at once.
const (
	chunkMessages = 500
	chunkOctets   = 256 << 10
)

// found is a message of a chunk, with its structure if that was asked for.
type found struct {
	store.Message
	structure []byte
}

// chunk is a part of a mailbox, read in one look.
type chunk struct {
	mailbox  store.Mailbox
	messages []found
	rest     imap.UIDSet // what is still to be read
}

// eachMessage calls fn for the messages of an ascending set that are there. No
// view of the store is open while fn runs, which may take as long as a slow
// client does: each chunk is as fresh as the time it is read at. A mailbox that
// is gone has no messages.
func (s *session) eachMessage(ctx context.Context, uids imap.UIDSet, structures bool, fn func(found) error) error {
	var room []found
	for len(uids) > 0 {
		c, err := s.readChunk(ctx, uids, structures, room)
		if backend.IsKind(err, backend.KindNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, m := range c.messages {
			if err := fn(m); err != nil {
				return err
			}
		}
		uids, room = c.rest, c.messages
	}
	return nil
}

// readChunk reads the first messages of a set. It may use the room of a chunk
// that is done with.
func (s *session) readChunk(ctx context.Context, uids imap.UIDSet, structures bool, room []found) (c chunk, err error) {
	snap, err := s.account.Snapshot(ctx, s.view.mailbox)
	if err != nil {
		return c, err
	}
	defer snap.Close()
	c.mailbox = snap.Mailbox()
	octets := 0
	if c.messages = room[:0]; room == nil {
		c.messages = make([]found, 0, min(chunkMessages, int(c.mailbox.Messages)))
	}
	for m, err := range snap.Messages(uids) {
		if err != nil {
			return c, err
		}
		if len(c.messages) == chunkMessages || octets >= chunkOctets {
			c.rest = from(uids, m.UID)
			break
		}
		f := found{Message: m}
		if structures {
			if f.structure, err = snap.Structure(m.UID); err != nil {
				return c, err
			}
			octets += len(f.structure)
		}
		c.messages = append(c.messages, f)
	}
	return c, nil
}

// from is the part of an ascending set that begins with uid.
func from(set imap.UIDSet, uid imap.UID) imap.UIDSet {
	i := slices.IndexFunc(set, func(r imap.UIDRange) bool { return r.Stop >= uid })
	if i < 0 {
		return nil
	}
	rest := slices.Clone(set[i:])
	rest[0].Start = max(rest[0].Start, uid)
	return rest
}
