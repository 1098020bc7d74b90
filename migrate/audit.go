package migrate

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// AuditSide is one of two stores that an audit compares.
type AuditSide struct {
	Name string
	// Dial logs in for the user; the audit closes the client.
	Dial func(ctx context.Context) (*remote.Client, error)
}

// AuditOptions say how deep an audit looks.
type AuditOptions struct {
	// Bodies is the share of messages, in percent, whose octets are compared.
	// Where a store can tell a message's digest itself (Cyrus), it is believed.
	Bodies int
	// Cached compares what clients keep for ever as well: ENVELOPE,
	// BODYSTRUCTURE and the header.
	Cached bool
	// ByContent pairs messages by their octets, for stores that do not share
	// UIDs: all bodies are read, and UIDs and counters are left out.
	ByContent bool
	// New allows messages at To whose UID is not below UIDNEXT at From: mail
	// that came since.
	New bool
	// Samples is how many differences of a class are kept; default 20.
	Samples int
}

// AuditClass is a kind of difference; the set is closed.
type AuditClass string

// The classes.
const (
	ClassNamespace      AuditClass = "namespace"
	ClassMailboxMissing AuditClass = "mailbox missing"
	ClassMailboxExtra   AuditClass = "mailbox extra"
	ClassSpecialUse     AuditClass = "special use"
	ClassSubscription   AuditClass = "subscription"
	ClassUIDValidity    AuditClass = "uidvalidity"
	ClassUIDNext        AuditClass = "uidnext"
	ClassModSeq         AuditClass = "modseq lower"
	ClassMissing        AuditClass = "message missing"
	ClassExtra          AuditClass = "message extra"
	ClassFlags          AuditClass = "flags"
	ClassDate           AuditClass = "date"
	ClassSize           AuditClass = "size"
	ClassOctets         AuditClass = "octets"
	ClassHeader         AuditClass = "header"
	// What clients keep, and stores write in different forms.
	ClassEnvelopeSpace     AuditClass = "envelope: white space"
	ClassEnvelopeAddress   AuditClass = "envelope: form of an address"
	ClassEnvelope          AuditClass = "envelope: other"
	ClassStructureCharset  AuditClass = "bodystructure: default charset"
	ClassStructureEncoding AuditClass = "bodystructure: 8bit that is not declared"
	ClassStructure         AuditClass = "bodystructure: other"
)

// AuditDifference is one thing that is not the same at both stores.
type AuditDifference struct {
	Class   AuditClass `json:"class"`
	Mailbox string     `json:"mailbox,omitempty"` // as From shows it
	UID     imap.UID   `json:"uid,omitempty"`
	What    string     `json:"what,omitempty"`
}

// Audit is what comparing a user's mail at two stores found.
type Audit struct {
	User      string `json:"user"`
	From      string `json:"from"`
	To        string `json:"to"`
	Equal     bool   `json:"equal"`
	Mailboxes int    `json:"mailboxes"`
	Messages  int64  `json:"messages"` // at From, in mailboxes that both have
	Bodies    int64  `json:"bodies"`   // whose octets were compared
	New       int64  `json:"new,omitempty"`
	// Classes counts all differences; Differences holds the first of each class.
	Classes     map[AuditClass]int `json:"classes,omitempty"`
	Differences []AuditDifference  `json:"differences,omitempty"`
	// Error says why the audit is not complete; Equal is false then.
	Error string `json:"error,omitempty"`
}

// RunAudit compares a user's mail at two stores, message by message. It only
// reads. Memory: 40 octets a message of the largest mailbox and side, ByContent
// 100. The Audit is as far as it came when err is not nil.
func RunAudit(ctx context.Context, user string, from, to AuditSide, o AuditOptions) (*Audit, error) {
	a := &auditor{o: o, res: &Audit{User: user, From: from.Name, To: to.Name, Classes: map[AuditClass]int{}}}
	err := a.run(ctx, from, to)
	a.res.Equal = err == nil && len(a.res.Classes) == 0
	if err != nil {
		a.res.Error = err.Error()
	}
	return a.res, err
}

// auditor is one audit.
type auditor struct {
	o     AuditOptions
	res   *Audit
	sides [2]auditSide
}

// auditSide is a store while it is audited.
type auditSide struct {
	name  string
	c     *remote.Client
	plan  *plan
	boxes map[backend.MailboxName]planned
	flags flagMapper
}

func (a *auditor) samples() int {
	if a.o.Samples > 0 {
		return a.o.Samples
	}
	return 20
}

func (a *auditor) differ(class AuditClass, box string, uid imap.UID, format string, args ...any) {
	a.res.Classes[class]++
	if a.res.Classes[class] <= a.samples() {
		a.res.Differences = append(a.res.Differences,
			AuditDifference{Class: class, Mailbox: box, UID: uid, What: fmt.Sprintf(format, args...)})
	}
}

func (a *auditor) run(ctx context.Context, from, to AuditSide) error {
	for i, side := range []AuditSide{from, to} {
		s := &a.sides[i]
		s.name = side.Name
		c, err := side.Dial(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", side.Name, err)
		}
		defer func() { _ = c.Logout() }()
		s.c = c
		acct, err := c.Survey(ctx)
		if err != nil {
			return fmt.Errorf("%s: survey: %w", side.Name, err)
		}
		s.plan = makePlan(acct)
		s.boxes = make(map[backend.MailboxName]planned, len(s.plan.boxes))
		for _, b := range s.plan.boxes {
			s.boxes[b.name] = b
		}
	}
	a.compareTrees()
	for _, name := range slices.Sorted(maps.Keys(a.sides[0].boxes)) {
		x := a.sides[0].boxes[name]
		y, ok := a.sides[1].boxes[name]
		if !ok || x.hollow || y.hollow {
			continue
		}
		if err := a.mailbox(ctx, x, y); err != nil {
			return fmt.Errorf("mailbox %q: %w", x.shown, err)
		}
	}
	return nil
}

// compareTrees compares what there is apart from messages.
func (a *auditor) compareTrees() {
	x, y := &a.sides[0], &a.sides[1]
	if x.plan.namespace != y.plan.namespace {
		a.differ(ClassNamespace, "", 0, "%+v became %+v", x.plan.namespace, y.plan.namespace)
	}
	for name, b := range x.boxes {
		other, ok := y.boxes[name]
		switch {
		case !ok:
			a.differ(ClassMailboxMissing, b.shown, 0, "")
		case b.hollow != other.hollow:
			a.differ(ClassMailboxExtra, b.shown, 0, `\NoSelect at one store only`)
		case !sameAttrs(b.special, other.special):
			a.differ(ClassSpecialUse, b.shown, 0, "%v became %v", b.special, other.special)
		}
		if ok || !b.hollow {
			a.res.Mailboxes++
		}
	}
	for name, b := range y.boxes {
		if _, ok := x.boxes[name]; !ok {
			a.differ(ClassMailboxExtra, b.shown, 0, "")
		}
	}
	for _, name := range x.plan.subscriptions {
		if !slices.Contains(y.plan.subscriptions, name) {
			a.differ(ClassSubscription, x.plan.namespace.Show(name), 0, "not subscribed at %s", y.name)
		}
	}
	for _, name := range y.plan.subscriptions {
		if !slices.Contains(x.plan.subscriptions, name) {
			a.differ(ClassSubscription, y.plan.namespace.Show(name), 0, "subscribed at %s only", y.name)
		}
	}
}

func sameAttrs(x, y []imap.MailboxAttr) bool {
	x, y = slices.Clone(x), slices.Clone(y)
	slices.Sort(x)
	slices.Sort(y)
	return slices.EqualFunc(x, y, func(a, b imap.MailboxAttr) bool { return strings.EqualFold(string(a), string(b)) })
}

// mailbox compares one mailbox.
func (a *auditor) mailbox(ctx context.Context, x, y planned) error {
	var sel [2]*remote.Selected
	var lists [2]*listing
	err := both(func(i int) (err error) {
		s := &a.sides[i]
		if sel[i], err = s.c.Examine(ctx, []planned{x, y}[i].raw, remote.SelectOptions{}); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if lists[i], err = list(ctx, s.c, sel[i], &s.flags, remote.FetchAll); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	a.res.Messages += int64(len(lists[0].entries))
	if a.o.ByContent {
		return a.byContent(ctx, x.shown, lists)
	}
	a.counters(x, y, sel)
	common := a.merge(x, lists, nextOf(x, sel[0]))
	if err := a.bodies(ctx, x.shown, lists, common); err != nil || !a.o.Cached {
		return err
	}
	return a.cached(ctx, x.shown, common)
}

// both does something for each side at once and gives the first error.
func both(do func(i int) error) error {
	other := make(chan error, 1)
	go func() { other <- do(1) }()
	err := do(0)
	if e := <-other; err == nil {
		err = e
	}
	return err
}

func nextOf(p planned, sel *remote.Selected) uint32 {
	if sel.UIDNext != 0 {
		return sel.UIDNext
	}
	return p.status.UIDNext
}

// counters compares what a mailbox says of itself.
func (a *auditor) counters(x, y planned, sel [2]*remote.Selected) {
	if u, v := sel[0].UIDValidity, sel[1].UIDValidity; u != v {
		a.differ(ClassUIDValidity, x.shown, 0, "%d became %d", u, v)
	}
	u, v := nextOf(x, sel[0]), nextOf(y, sel[1])
	if u != 0 && v != 0 && u != v && !(a.o.New && v > u) {
		a.differ(ClassUIDNext, x.shown, 0, "%d became %d", u, v)
	}
	if u, v := sel[0].HighestModSeq, sel[1].HighestModSeq; u != 0 && v != 0 && v < u {
		a.differ(ClassModSeq, x.shown, 0, "HIGHESTMODSEQ %d became %d", u, v)
	}
}

// merge walks both listings in UID order and returns the UIDs that both have.
func (a *auditor) merge(x planned, lists [2]*listing, next uint32) []imap.UID {
	p, q := lists[0].entries, lists[1].entries
	common := make([]imap.UID, 0, min(len(p), len(q)))
	for len(p) > 0 || len(q) > 0 {
		switch {
		case len(q) == 0 || len(p) > 0 && p[0].uid < q[0].uid:
			a.differ(ClassMissing, x.shown, p[0].uid, "")
			p = p[1:]
		case len(p) == 0 || q[0].uid < p[0].uid:
			if a.o.New && uint32(q[0].uid) >= next {
				a.res.New++
			} else {
				a.differ(ClassExtra, x.shown, q[0].uid, "")
			}
			q = q[1:]
		default:
			a.message(x.shown, lists, &p[0], &q[0])
			common = append(common, p[0].uid)
			p, q = p[1:], q[1:]
		}
	}
	return common
}

// message compares what two listings tell of a message.
func (a *auditor) message(box string, lists [2]*listing, x, y *entry) {
	if f, g := lists[0].flags(x), lists[1].flags(y); !sameFlags(f, g) {
		a.differ(ClassFlags, box, x.uid, "%v became %v", f, g)
	}
	if lists[0].at(x) != lists[1].at(y) {
		a.differ(ClassDate, box, x.uid, "%s became %s", lists[0].internalDate(x), lists[1].internalDate(y))
	}
	if x.size != y.size && a.sides[0].c.Profile().ExactSizes && a.sides[1].c.Profile().ExactSizes {
		a.differ(ClassSize, box, x.uid, "%d octets became %d", x.size, y.size)
	}
	if !a.o.ByContent && x.modseq != 0 && y.modseq != 0 && y.modseq < x.modseq {
		a.differ(ClassModSeq, box, x.uid, "%d became %d", x.modseq, y.modseq)
	}
}
