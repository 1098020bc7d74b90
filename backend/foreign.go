package backend

import (
	"context"

	"github.com/emersion/go-imap/v2"
)

// A foreign store as the target of a copy cannot take UIDs, UIDVALIDITY and
// modseqs: it gives its own. Its Importer keeps the old ones in a map, so that a
// copy can be followed and repeated, and implements what follows beside Import
// and MailboxImport. Nothing can be activated there.

// ForeignImport is an Import into a store that gives its own UIDs.
type ForeignImport interface {
	Import
	// Prepare is told the mailboxes of the account before each pass: it
	// creates what is missing, in few round trips, and finds renamed ones.
	Prepare(ctx context.Context, boxes []ImportMailbox) error
	// Notes are what the target could not take as it was, without order.
	Notes() []ImportNote
}

// ImportNote is something that the target took in another form, or not at all.
type ImportNote struct {
	Mailbox MailboxName
	UID     imap.UID // at the source; 0: the whole mailbox
	What    string
	Skipped bool // it is missing at the target
}

// OrderedImport is a MailboxImport that gives UIDs in the order in which
// messages come: they have to come in ascending order, of one caller at a time.
type OrderedImport interface {
	MailboxImport
	// PutOrdered sends messages behind those of earlier calls and returns
	// without their answer; it blocks while too much is on the way. wait ends
	// when they are filed, as Put does; it has to be called. Bodies are taken over.
	PutOrdered(ctx context.Context, msgs []ImportMessage) (wait func() error, err error)
	// Refused are the messages that the target will not take, and why. Each is
	// refused once and kept in a quarantine file; Put does not fail for them.
	Refused() map[imap.UID]string
}

// SideTarget is a ForeignImport that carries over what a user has beside mail, as
// far as the store lets it be set.
type SideTarget interface {
	ForeignImport
	// CarrySide brings the store's access rights, annotations, quota, special uses
	// and scripts to those of d, after a Prepare. What is equal is not touched; what
	// the user changed at the store since it was carried, neither, unless the source
	// changed it, too. Errors are the connections'.
	CarrySide(ctx context.Context, d *SideData) (*SideCarried, error)
	// PlanSide changes nothing: it tells what Prepare and CarrySide would do.
	PlanSide(ctx context.Context, boxes []ImportMailbox, d *SideData) (*SideCarried, error)
}

// SideCarried is what came of side data at a foreign store. The notes have no UIDs.
type SideCarried struct {
	Changed []ImportNote // what was set, or would be
	Left    []ImportNote // what was not, and why
}
