package store

import (
	"encoding/binary"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
)

// The keyspace of a shard. Numbers are big-endian, so that keys sort by them;
// everything of one user follows the user's id within a prefix.
//
//	A user               account record
//	N user name          mailbox id; names sort so that children follow their parent
//	G user name          highest UIDVALIDITY that ever left this name
//	S user name          subscription
//	M user mailbox       mailbox record with its counters
//	K user mailbox       keyword table
//	m user mailbox uid   message record
//	x user mailbox uid   structure blob
//	q user mailbox modseq uid   live or vanished: what changed at modseq
//	Z user mailbox       a mailbox that is gone, whose messages are still to be purged
//	E user mailbox kind name   what belongs to a user (mailbox 0) or mailbox beside mail
//	D delivery-id        outcome of a delivery, kept for deliveryMemory
//
// And of the Meta shard:
//
//	U name (folded)      user record
//	I user               name of the user with this id
//	L alias (folded)     name of the user with this alias
//	i                    highest user id given
//	C shard              number of users put on the shard
const (
	prefixAccount   = 'A'
	prefixName      = 'N'
	prefixGrave     = 'G'
	prefixSubscribe = 'S'
	prefixMailbox   = 'M'
	prefixKeywords  = 'K'
	prefixMessage   = 'm'
	prefixStructure = 'x'
	prefixModSeq    = 'q'
	prefixDoomed    = 'Z'
	prefixSide      = 'E'
	prefixDelivery  = 'D'

	prefixUser       = 'U'
	prefixUserID     = 'I'
	prefixAlias      = 'L'
	prefixLastUserID = 'i'
	prefixShardUsers = 'C'
)

func userKey(prefix byte, user uint64) []byte {
	k := make([]byte, 1, 32)
	k[0] = prefix
	return binary.BigEndian.AppendUint64(k, user)
}

func nameKey(prefix byte, user uint64, name backend.MailboxName) []byte {
	return append(userKey(prefix, user), name...)
}

func mailboxKey(prefix byte, user, mailbox uint64) []byte {
	return binary.BigEndian.AppendUint32(userKey(prefix, user), uint32(mailbox))
}

func uidKey(prefix byte, user, mailbox uint64, uid imap.UID) []byte {
	return binary.BigEndian.AppendUint32(mailboxKey(prefix, user, mailbox), uint32(uid))
}

func modSeqKey(user, mailbox, modseq uint64, uid imap.UID) []byte {
	k := binary.BigEndian.AppendUint64(mailboxKey(prefixModSeq, user, mailbox), modseq)
	return binary.BigEndian.AppendUint32(k, uint32(uid))
}

// keyUID is the UID at the end of a key of prefixMessage or prefixModSeq.
func keyUID(key []byte) imap.UID {
	return imap.UID(binary.BigEndian.Uint32(key[len(key)-4:]))
}

// keyModSeq is the modseq of a key of prefixModSeq.
func keyModSeq(key []byte) uint64 {
	return binary.BigEndian.Uint64(key[len(key)-12:])
}

// keyMailbox is the mailbox at the end of a key of prefixMailbox or prefixDoomed.
func keyMailbox(key []byte) uint64 {
	return uint64(binary.BigEndian.Uint32(key[len(key)-4:]))
}

// keyName is the name in a key of prefixName, prefixGrave or prefixSubscribe.
func keyName(key []byte) backend.MailboxName { return backend.MailboxName(key[9:]) }

// prefixEnd is the smallest key above all keys that begin with prefix, nil
// when there is none.
func prefixEnd(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

// uidBounds are the bounds of the keys of one mailbox with first <= UID <= last.
func uidBounds(prefix byte, user, mailbox uint64, first, last imap.UID) (lower, upper []byte) {
	lower = uidKey(prefix, user, mailbox, first)
	if last == 1<<32-1 {
		return lower, prefixEnd(mailboxKey(prefix, user, mailbox))
	}
	return lower, uidKey(prefix, user, mailbox, last+1)
}

func deliveryKey(id string) []byte { return append([]byte{prefixDelivery}, id...) }

func foldedKey(prefix byte, name string) []byte { return append([]byte{prefix}, foldName(name)...) }

func shardKey(shard uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{prefixShardUsers}, shard)
}

// present is the value of a key that says all.
var present = []byte{1}
