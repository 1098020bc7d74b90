package backend

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"
)

// SumMessage is what one message adds to MailboxDigest.Messages: SHA-256 over
// the UID (four octets, big-endian) and, each after a zero octet, the flags in
// lower case, sorted, once each, without \Recent.
func SumMessage(uid imap.UID, flags []imap.Flag) [32]byte {
	folded := make([]string, 0, 8)
	for _, f := range flags {
		if s := strings.ToLower(string(f)); s != `\recent` {
			folded = append(folded, s)
		}
	}
	slices.Sort(folded)
	buf := make([]byte, 4, 128)
	binary.BigEndian.PutUint32(buf, uint32(uid))
	for _, f := range slices.Compact(folded) {
		buf = append(buf, 0)
		buf = append(buf, f...)
	}
	return sha256.Sum256(buf)
}

// AddSum adds b to sum, modulo 2^256, most significant octet first.
func AddSum(sum *[32]byte, b [32]byte) {
	var carry uint64
	for i := 24; i >= 0; i -= 8 {
		var v uint64
		v, carry = bits.Add64(binary.BigEndian.Uint64(sum[i:]), binary.BigEndian.Uint64(b[i:]), carry)
		binary.BigEndian.PutUint64(sum[i:], v)
	}
}

// SubSum takes b from sum again.
func SubSum(sum *[32]byte, b [32]byte) {
	var borrow uint64
	for i := 24; i >= 0; i -= 8 {
		var v uint64
		v, borrow = bits.Sub64(binary.BigEndian.Uint64(sum[i:]), binary.BigEndian.Uint64(b[i:]), borrow)
		binary.BigEndian.PutUint64(sum[i:], v)
	}
}
