package backend

import (
	"cmp"
	"context"
	"slices"
	"strings"
)

// MaxSideValue bounds a script, and the value of an annotation, in octets.
const MaxSideValue = 512 << 10

// SideImport is an Import that takes what belongs to a user beside mail and
// subscriptions. It is kept whether a protocol shows it or not.
type SideImport interface {
	// SetSideData replaces what is kept by d, durably. What belongs to a
	// mailbox that is not there is left out, and named in the result.
	// KindTooLarge: something has more than MaxSideValue octets.
	SetSideData(ctx context.Context, d *SideData) (absent []MailboxName, err error)
	// SideData gives what is kept.
	SideData(ctx context.Context) (*SideData, error)
}

// SideData is what a user has beside mail, in a fixed order: mailboxes by name,
// everything else by its own name.
type SideData struct {
	Quotas   []QuotaRoot       `json:"quotas,omitempty"`
	ACLs     []MailboxACL      `json:"acls,omitempty"`
	Metadata []MailboxMetadata `json:"metadata,omitempty"`
	Scripts  []SieveScript     `json:"scripts,omitempty"`
	Shared   []SharedSeen      `json:"shared_seen,omitempty"`
	// Subscribed are subscriptions to mailboxes of somebody else, by the names
	// that the old store showed.
	Subscribed []string `json:"subscribed,omitempty"`
}

// QuotaRoot are the limits of a quota root (RFC 9208).
type QuotaRoot struct {
	Root   string       `json:"root"`
	Limits []QuotaLimit `json:"limits"`
}

// QuotaLimit is the limit of a resource; STORAGE counts in units of 1024 octets.
type QuotaLimit struct {
	Resource string `json:"resource"`
	Usage    int64  `json:"usage"` // as it was at the old store
	Limit    int64  `json:"limit"`
}

// MailboxACL is the access control list of a mailbox (RFC 4314).
type MailboxACL struct {
	Mailbox MailboxName `json:"mailbox"`
	Entries []ACLEntry  `json:"entries"`
}

// ACLEntry gives an identifier rights. An identifier that begins with "-"
// takes them away.
type ACLEntry struct {
	Identifier string `json:"identifier"` // as the old store has it
	Rights     string `json:"rights"`     // each letter once, sorted
}

// MailboxMetadata are the annotations of a mailbox, or of the server as this
// user sees it when Mailbox is empty (RFC 5464).
type MailboxMetadata struct {
	Mailbox MailboxName     `json:"mailbox"`
	Entries []MetadataEntry `json:"entries"`
}

// MetadataEntry is an annotation: "/private/..." is the user's own, "/shared/..."
// everybody's.
type MetadataEntry struct {
	Name  string `json:"name"`
	Value []byte `json:"value"`
}

// SieveScript is a script as ManageSieve shows it (RFC 5804). At most one is
// active.
type SieveScript struct {
	Name   string `json:"name"`
	Text   []byte `json:"text"`
	Active bool   `json:"active,omitempty"`
	// Inactive says why a script that was active is not; empty: it was not.
	Inactive string `json:"inactive,omitempty"`
}

// SharedSeen are the messages that the user has seen in a mailbox of somebody
// else.
type SharedSeen struct {
	// Mailbox is the name as the user's old store showed it: the mailbox is
	// none of the user's own.
	Mailbox     string `json:"mailbox"`
	UIDValidity uint32 `json:"uidvalidity"`
	Seen        string `json:"seen"` // UIDs, as a set of RFC 9051 writes them
}

// Sort brings d into its order, so that equal side data are equal octet by octet
// when they are encoded.
func (d *SideData) Sort() {
	slices.SortFunc(d.Quotas, func(x, y QuotaRoot) int { return strings.Compare(x.Root, y.Root) })
	for i := range d.Quotas {
		slices.SortFunc(d.Quotas[i].Limits, func(x, y QuotaLimit) int { return strings.Compare(x.Resource, y.Resource) })
	}
	slices.SortFunc(d.ACLs, func(x, y MailboxACL) int { return cmp.Compare(x.Mailbox, y.Mailbox) })
	for i := range d.ACLs {
		slices.SortFunc(d.ACLs[i].Entries, func(x, y ACLEntry) int { return strings.Compare(x.Identifier, y.Identifier) })
	}
	slices.SortFunc(d.Metadata, func(x, y MailboxMetadata) int { return cmp.Compare(x.Mailbox, y.Mailbox) })
	for i := range d.Metadata {
		slices.SortFunc(d.Metadata[i].Entries, func(x, y MetadataEntry) int { return strings.Compare(x.Name, y.Name) })
	}
	slices.SortFunc(d.Scripts, func(x, y SieveScript) int { return strings.Compare(x.Name, y.Name) })
	slices.Sort(d.Subscribed)
	slices.SortFunc(d.Shared, func(x, y SharedSeen) int { return strings.Compare(x.Mailbox, y.Mailbox) })
}

// SieveChecker is an Import whose store runs Sieve.
type SieveChecker interface {
	// CheckSieve says why the store could not run a script; nil: it can.
	CheckSieve(ctx context.Context, script []byte) error
}
