package migrate

import (
	"slices"
	"time"

	"github.com/emersion/go-imap/v2"
)

// SoakReport is what happened behind a flip, as part of the certificate.
type SoakReport struct {
	Until time.Time `json:"until"`
	// Late counts the mail that others put into the old store behind the flip and
	// that was carried to the new one; LateMail are the last of it.
	Late     int        `json:"late"`
	LateMail []LateMail `json:"late_mail,omitempty"`
	// Exceptions are what a roll-back would not bring back, or did not, as it was.
	Exceptions []Exception `json:"exceptions,omitempty"`
	// RolledBack is when the placement that names the old store again became durable.
	RolledBack *time.Time `json:"rolled_back,omitempty"`
	// Messages and Mailboxes were equal on both sides then, but for Exceptions.
	Messages  uint64 `json:"messages,omitempty"`
	Mailboxes int    `json:"mailboxes,omitempty"`
	// Back is what the roll-back cost the user.
	Back *Pause `json:"back,omitempty"`
}

// LateMail is a message that came late to the old store.
type LateMail struct {
	Mailbox string    `json:"mailbox"` // as both stores show it
	UID     imap.UID  `json:"uid"`     // at the old store
	As      imap.UID  `json:"as"`      // at the new one
	Seen    time.Time `json:"seen"`
}

// maxLateMail bounds the report.
const maxLateMail = 1000

// noteSoak brings the user's certificate up to date, if anything is new.
func (d *driver) noteSoak(change func(*SoakReport)) {
	c, err := readCertificate(d.b.journal.dir, d.user)
	if err != nil {
		d.log.Error("certificate not read", "error", err)
		return
	}
	was := SoakReport{}
	if c.Soak != nil {
		was = *c.Soak
	}
	now := was
	now.LateMail, now.Exceptions = slices.Clone(was.LateMail), slices.Clone(was.Exceptions)
	now.Until = time.Unix(d.move.SoakUntil, 0).UTC()
	change(&now)
	if n := len(now.LateMail); n > maxLateMail {
		now.LateMail = now.LateMail[n-maxLateMail:]
	}
	slices.SortFunc(now.Exceptions, compareExceptions)
	if c.Soak != nil && now.Late == was.Late && now.RolledBack == was.RolledBack && now.Back == was.Back && slices.Equal(now.Exceptions, was.Exceptions) {
		return
	}
	c.Soak, c.Written = &now, time.Now().UTC()
	if err := d.e.certificate(d.b, c); err != nil {
		d.log.Error("certificate not written", "error", err)
	}
}
