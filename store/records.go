package store

import (
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/cluster/engine"
)

// Records begin with their format, so that a later one can be told apart.
const recordFormat = 1

type accountState byte

const (
	accountActive accountState = iota
	accountImporting
)

// accountRecord is what a shard knows of a user.
type accountRecord struct {
	State accountState
	// Epoch is that of the Activate that opened the account, 0 for a user who
	// was created here. Activates up to Fence are refused.
	Epoch, Fence uint64
	// Generation counts the holds of an import: a Seal counts in its own only.
	Generation     uint64
	MaxUIDValidity uint32 // highest ever given to a mailbox of this user
	LastMailbox    uint64
	Inbox          uint64 // mailbox id of INBOX, 0 while an import has none
}

func (r *accountRecord) encode() []byte {
	e := encoder{b: make([]byte, 0, 32)}
	e.byte(recordFormat)
	e.byte(byte(r.State))
	e.uint(r.Epoch)
	e.uint(r.Fence)
	e.uint(r.Generation)
	e.uint(uint64(r.MaxUIDValidity))
	e.uint(r.LastMailbox)
	e.uint(r.Inbox)
	return e.b
}

func decodeAccount(b []byte) (*accountRecord, error) {
	d := decoder{b: b}
	if d.byte() != recordFormat {
		return nil, errCorrupt
	}
	r := &accountRecord{State: accountState(d.byte()), Epoch: d.uint(), Fence: d.uint(), Generation: d.uint(),
		MaxUIDValidity: d.uint32(), LastMailbox: d.uint(), Inbox: d.uint()}
	return r, d.end()
}

// mailboxRecord is a mailbox with its counters, rewritten with every change.
type mailboxRecord struct {
	Name          backend.MailboxName
	UIDValidity   uint32
	UIDNext       uint32
	HighestModSeq uint64
	// Remembered is the modseq since which every expunge is in the modseq index.
	Remembered  uint64
	FirstRecent uint32
	Messages    uint32
	Unseen      uint32
	Deleted     uint32
	Recent      uint32
	Size        int64
	Sum         [32]byte // of backend.SumMessage
	SpecialUse  []imap.MailboxAttr
	NoSelect    bool
	// Sealed is the import generation of the last Seal, 0 after a change.
	Sealed uint64
	// SealedModSeq is the modseq that Seal stated: HighestModSeq may be above
	// it. It was added later: a record without it ends before it.
	SealedModSeq uint64
}

func (r *mailboxRecord) encode() []byte {
	e := encoder{b: make([]byte, 0, 128)}
	e.byte(recordFormat)
	e.string(string(r.Name))
	e.uint(uint64(r.UIDValidity))
	e.uint(uint64(r.UIDNext))
	e.uint(r.HighestModSeq)
	e.uint(r.Remembered)
	e.uint(uint64(r.FirstRecent))
	e.uint(uint64(r.Messages))
	e.uint(uint64(r.Unseen))
	e.uint(uint64(r.Deleted))
	e.uint(uint64(r.Recent))
	e.int(r.Size)
	e.sum(r.Sum)
	encodeStrings(&e, r.SpecialUse)
	e.bool(r.NoSelect)
	e.uint(r.Sealed)
	if r.SealedModSeq != 0 {
		e.uint(r.SealedModSeq)
	}
	return e.b
}

func decodeMailbox(b []byte) (*mailboxRecord, error) {
	d := decoder{b: b}
	if d.byte() != recordFormat {
		return nil, errCorrupt
	}
	r := &mailboxRecord{Name: backend.MailboxName(d.string()), UIDValidity: d.uint32(), UIDNext: d.uint32(),
		HighestModSeq: d.uint(), Remembered: d.uint(), FirstRecent: d.uint32(), Messages: d.uint32(),
		Unseen: d.uint32(), Deleted: d.uint32(), Recent: d.uint32(), Size: d.int(), Sum: d.sum(),
		SpecialUse: decodeStrings[imap.MailboxAttr](&d), NoSelect: d.bool(), Sealed: d.uint()}
	if d.err == nil && len(d.b) > 0 {
		r.SealedModSeq = d.uint()
	}
	return r, d.end()
}

// stamp is a date as messages keep it: seconds and the zone it was written in.
type stamp struct {
	Unix int64
	Zone int64 // minutes east of UTC
}

func stampOf(t time.Time) stamp {
	_, offset := t.Zone()
	return stamp{Unix: t.Unix(), Zone: int64(offset / 60)}
}

func (s stamp) time() time.Time {
	t := time.Unix(s.Unix, 0)
	if s.Zone == 0 {
		return t.UTC()
	}
	return t.In(time.FixedZone("", int(s.Zone)*60))
}

func (e *encoder) stamp(s stamp) { e.int(s.Unix); e.int(s.Zone) }

// stamp reads a date; a zone of a day or more is none.
func (d *decoder) stamp() stamp {
	s := stamp{Unix: d.int(), Zone: d.int()}
	if s.Zone <= -24*60 || s.Zone >= 24*60 {
		d.fail()
	}
	return s
}

// messageRecord is a message's index entry.
type messageRecord struct {
	ModSeq   uint64
	Created  uint64 // modseq at which it was filed
	Flags    flagSet
	Date     stamp
	Saved    int64 // seconds since 1970, 0: unknown
	Size     int64
	Digest   [32]byte
	Body     engine.BodyID
	UIDL     string
	HasExtra bool // there is a structure blob
	// POP3Order is the place in the maildrop at the store the message came
	// from, 0: none. It was added later: a record without it ends before it.
	POP3Order uint32
}

func (r *messageRecord) encode() []byte {
	e := encoder{b: make([]byte, 0, 80)}
	e.byte(recordFormat)
	e.uint(r.ModSeq)
	e.uint(r.Created)
	e.flags(r.Flags)
	e.stamp(r.Date)
	e.int(r.Saved)
	e.int(r.Size)
	e.sum(r.Digest)
	e.uint(uint64(r.Body))
	e.string(r.UIDL)
	e.bool(r.HasExtra)
	if r.POP3Order != 0 {
		e.uint(uint64(r.POP3Order))
	}
	return e.b
}

func decodeMessage(b []byte) (*messageRecord, error) {
	d := decoder{b: b}
	if d.byte() != recordFormat {
		return nil, errCorrupt
	}
	r := &messageRecord{ModSeq: d.uint(), Created: d.uint(), Flags: d.flags(), Date: d.stamp(), Saved: d.int(),
		Size: d.int(), Digest: d.sum(), Body: engine.BodyID(d.uint()), UIDL: d.string(), HasExtra: d.bool()}
	if len(d.b) > 0 {
		r.POP3Order = d.uint32()
	}
	return r, d.end()
}
