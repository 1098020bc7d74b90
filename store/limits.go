package store

import "time"

// MaxStructure bounds the blob kept with a message.
const MaxStructure = 32 << 10

const (
	// stepMessages is how many messages one command touches at most: about
	// 300 KB of writes, a few milliseconds in Apply.
	stepMessages = 1000
	// stepRanges bounds the ranges of a set in one command: 10 octets each at
	// worst, a tenth of engine.MaxCommand.
	stepRanges = 10_000
	// maxKeywords bounds a mailbox's keyword table. Cyrus allows 128, Dovecot
	// any number; a mailbox that was moved here must fit.
	maxKeywords = 4096
	// maxFlagLength bounds one keyword.
	maxFlagLength = 1024
	// maxNameLength bounds a mailbox name in octets, separators included.
	maxNameLength = 4096
	// maxUID leaves room so that UIDNEXT is a valid UID too.
	maxUID = 1<<32 - 2
	// deliveryMemory is how long a delivery id is remembered: longer than our
	// own retries of one transaction ever last.
	deliveryMemory = 5 * time.Minute
)
