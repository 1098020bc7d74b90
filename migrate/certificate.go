package migrate

import (
	"slices"
	"time"

	"mailferry/backend"
)

// Certificate is the proof of a move, as far as it has come.
type Certificate struct {
	User    string    `json:"user"`
	From    string    `json:"from"`
	To      string    `json:"to"`
	Batch   BatchID   `json:"batch,omitempty"`
	Written time.Time `json:"written"`
	// Level says what was compared: "copied": sizes as streamed;
	// "compared": also UIDs, flags and counters of both sides, while the
	// user's mail was held.
	Level string `json:"level"`
	// Grade is "perfect", "exceptions" (all mail is there, something has
	// another form) or "incomplete".
	Grade     string            `json:"grade"`
	Namespace backend.Namespace `json:"namespace"`
	Messages  uint64            `json:"messages"`
	Streamed  uint64            `json:"streamed"` // that were read and hashed in this process
	// Reread counts the messages whose bodies were read again from the new
	// store's disk, in this process, with the hash they came in with.
	Reread uint64 `json:"reread"`
	// Proved counts the messages that the old store was asked for a second time
	// and that were then equal on the new store's disk.
	Proved uint64 `json:"proved"`
	// Filed counts the messages that moved at the old store while it was followed,
	// and were filed, in this process, with the octets that the new one had already
	// of another place; Renamed the mailboxes that were renamed with all they hold.
	// Trusted counts those of Filed of which no digest was compared one by one: the
	// store's id, size and date are the same, and the octets of a few of them.
	Filed     uint64               `json:"filed,omitempty"`
	Trusted   uint64               `json:"trusted,omitempty"`
	Renamed   int                  `json:"renamed,omitempty"`
	Mailboxes []MailboxCertificate `json:"mailboxes"`
	Exception []Exception          `json:"exceptions,omitempty"`
	// Note says what holds for all of a copy into a foreign store.
	Note  string `json:"note,omitempty"`
	Pause *Pause `json:"pause,omitempty"`
	// POP3 is nil where nobody asked for POP3 identities.
	POP3 *POP3Certificate `json:"pop3,omitempty"`
	// Side is what was carried over beside mail; nil before it was read.
	Side *SideCertificate `json:"side,omitempty"`
	// Soak is what was carried between the stores behind the flip; nil without one.
	Soak *SoakReport `json:"soak,omitempty"`
	// Flipped is when the placement that names the new store became durable.
	Flipped *time.Time `json:"flipped,omitempty"`
	// Signature is the engine's over everything else; see Signer.
	Signature *Signature `json:"signature,omitempty"`
}

// MailboxCertificate is a mailbox as both sides have it.
type MailboxCertificate struct {
	Name          string `json:"name"` // as the old store shows it
	UIDValidity   uint32 `json:"uidvalidity"`
	UIDNext       uint32 `json:"uidnext"`
	HighestModSeq uint64 `json:"highestmodseq"` // of the old store; the new one's is not lower
	Messages      uint32 `json:"messages"`
	Skipped       int    `json:"skipped,omitempty"`
	// Digest sums up UIDs and flags; equal on both sides once Compared.
	Digest   string `json:"digest,omitempty"`
	Compared bool   `json:"compared"`
	NoSelect bool   `json:"noselect,omitempty"`
}

// Pause is what a flip cost the user.
type Pause struct {
	// Hold is from the order to hold until the new placement was durable.
	Hold     time.Duration `json:"hold"`
	Attempts int           `json:"attempts"`
	Sessions int           `json:"sessions"` // and waiting logins and deliveries
	P50      time.Duration `json:"p50"`
	P99      time.Duration `json:"p99"`
	Max      time.Duration `json:"max"`
	Attached int           `json:"attached"`
	Resumed  int           `json:"resumed"`
	Closed   int           `json:"closed"`
	Reasons  []string      `json:"reasons,omitempty"`
}

// pauseOf sums up the proxies' reports.
func pauseOf(hold time.Duration, attempts int, reports []backend.Resumption) *Pause {
	p := &Pause{Hold: hold, Attempts: attempts}
	var all []time.Duration
	for _, r := range reports {
		p.Attached += r.Attached
		p.Resumed += r.Resumed
		p.Closed += r.Closed
		p.Reasons = append(p.Reasons, r.Reasons...)
		all = append(all, r.Pauses...)
	}
	slices.Sort(all)
	if n := len(all); n > 0 {
		p.Sessions, p.P50, p.P99, p.Max = n, all[(n-1)/2], all[(n-1)*99/100], all[n-1]
	}
	return p
}

// certify describes the account as it is now.
func (a *account) certify(level string) *Certificate {
	c := &Certificate{User: a.user, Level: level, Grade: "perfect", Namespace: a.namespace, Streamed: a.streamed, Reread: a.rereads,
		Proved: a.proved, Filed: a.adopted, Trusted: a.trusted, Renamed: a.renamed}
	c.Exception = append(slices.Clone(a.planned), a.flags.exceptions()...)
	a.certifyPOP3(c)
	a.certifySide(c)
	if f, ok := a.imp.(backend.ForeignImport); ok {
		c.Note = "The new store gives UIDs and a UIDVALIDITY of its own: mail clients download everything again."
		for _, n := range f.Notes() {
			c.Exception = append(c.Exception, Exception{Mailbox: a.namespace.Show(n.Mailbox), UID: n.UID, What: n.What, Skipped: n.Skipped})
		}
	}
	for _, name := range a.names() {
		b := a.boxes[name]
		m := MailboxCertificate{Name: b.shown, UIDValidity: b.validity, UIDNext: b.next, HighestModSeq: b.modseq,
			Messages: b.count, Skipped: len(b.skipped), NoSelect: b.hollow, Compared: b.compared}
		if b.summed && !b.hollow {
			m.Digest = hexSum(b.sum)
		}
		c.Messages += uint64(b.count)
		c.Mailboxes = append(c.Mailboxes, m)
		for uid, why := range b.skipped {
			c.Exception = append(c.Exception, Exception{Mailbox: b.shown, UID: uid, What: why, Skipped: true})
		}
		for _, e := range b.notes {
			c.Exception = append(c.Exception, e)
		}
	}
	if len(c.Exception) > 0 {
		c.Grade = "exceptions"
	}
	if slices.ContainsFunc(c.Exception, func(e Exception) bool { return e.Skipped }) {
		c.Grade = "incomplete"
	}
	slices.SortFunc(c.Exception, compareExceptions)
	return c
}
