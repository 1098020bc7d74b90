package target

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// sideRecord is what the target was given beside mail, so that a later run can
// tell the source's changes from those of the user at the target. By the
// source's mailboxes.
type sideRecord struct {
	// Sum is of the source's side data, and of everything that shapes them,
	// when the target had all of them.
	Sum      string                                     `json:"sum,omitempty"`
	ACLs     map[backend.MailboxName]map[string]string  `json:"acls"`
	Metadata map[backend.MailboxName]map[string]string  `json:"metadata"` // sums
	Quotas   map[string]int64                           `json:"quotas"`
	Scripts  map[string]string                          `json:"scripts"` // sums
	Active   string                                     `json:"active,omitempty"`
	Uses     map[backend.MailboxName][]imap.MailboxAttr `json:"uses,omitempty"`
}

func (i *account) sidePath() string { return filepath.Join(i.o.Dir, "side.json") }

func (i *account) readSide() (*sideRecord, error) {
	rec := &sideRecord{}
	b, err := os.ReadFile(i.sidePath())
	if err == nil && json.Unmarshal(b, rec) != nil { // torn: what is equal will be known again
		rec = &sideRecord{}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if rec.ACLs == nil {
		rec.ACLs = make(map[backend.MailboxName]map[string]string)
	}
	if rec.Metadata == nil {
		rec.Metadata = make(map[backend.MailboxName]map[string]string)
	}
	if rec.Quotas == nil {
		rec.Quotas = make(map[string]int64)
	}
	if rec.Scripts == nil {
		rec.Scripts = make(map[string]string)
	}
	return rec, nil
}

func (i *account) writeSide(rec *sideRecord) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	tmp := i.sidePath() + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, i.sidePath())
}

// boxAt is a mailbox of the source at the target.
type boxAt struct {
	raw, shown string
	ok         bool // it has one there
	exists     bool // already: always so but in a plan
	created    bool // by this process
	second     bool // another mailbox of the source goes to the same one
}

// sideRun is one carrying of side data.
type sideRun struct {
	i    *account
	c    *remote.Client
	kind backend.StoreType
	d    *backend.SideData
	have *remote.Side // of the target
	rec  *sideRecord
	ids  identifiers
	old  bool // the target has the rights of RFC 2086
	dry  bool
	box  map[backend.MailboxName]boxAt
	uses map[backend.MailboxName][]imap.MailboxAttr
	out  *backend.SideCarried
}

func (s *sideRun) at(name backend.MailboxName) boxAt { return s.box[name] }

// mirror: the target's own is not kept.
func (s *sideRun) mirror() bool { return s.i.o.Rules.Delete }

// maxSideNotes bounds what is told of one carrying.
const maxSideNotes = 1000

func (s *sideRun) left(box backend.MailboxName, format string, args ...any) {
	if len(s.out.Left) < maxSideNotes {
		s.out.Left = append(s.out.Left, backend.ImportNote{Mailbox: box, What: fmt.Sprintf(format, args...)})
	}
}

func (s *sideRun) changed(box backend.MailboxName, format string, args ...any) {
	s.out.Changed = append(s.out.Changed, backend.ImportNote{Mailbox: box, What: fmt.Sprintf(format, args...)})
}

func statusOf(err error) (*remote.StatusError, bool) {
	var s *remote.StatusError
	return s, errors.As(err, &s)
}

// CarrySide implements backend.SideTarget.
func (i *account) CarrySide(ctx context.Context, d *backend.SideData) (*backend.SideCarried, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	rec, err := i.readSide()
	if err != nil {
		return nil, err
	}
	boxes := make(map[backend.MailboxName]boxAt)
	taken := make(map[string]bool)
	all := i.mailboxes()
	slices.SortFunc(all, func(a, b *mailbox) int { return compareNames(a.name, b.name) })
	for _, b := range all {
		shown, _ := remote.DecodeName(b.raw)
		boxes[b.name] = boxAt{raw: b.raw, shown: shown, ok: b.failed == nil && b.raw != "", exists: true, created: i.created[b.raw], second: taken[b.raw]}
		taken[b.raw] = true
	}
	sum, err := i.sumSide(d, boxes, i.uses)
	if err != nil {
		return nil, err
	}
	if sum == rec.Sum && !i.o.Rules.Delete {
		return &backend.SideCarried{}, nil
	}
	s := &sideRun{i: i, d: d, rec: rec, box: boxes, uses: i.uses}
	if err := s.run(ctx); err != nil {
		return nil, err
	}
	if rec.Sum = sum; len(s.out.Left) > 0 {
		rec.Sum = "" // some of it may be possible the next time
	}
	return s.out, i.writeSide(rec)
}

func compareNames(a, b backend.MailboxName) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// PlanSide implements backend.SideTarget.
func (i *account) PlanSide(ctx context.Context, list []backend.ImportMailbox, d *backend.SideData) (*backend.SideCarried, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.do(ctx, func(c *remote.Client) (err error) {
		i.list, err = c.Survey(ctx)
		return err
	}); err != nil {
		return nil, fmt.Errorf("survey of the target: %w", err)
	}
	plan, err := i.plan(list)
	if err != nil {
		return nil, err
	}
	rec, err := i.readSide()
	if err != nil {
		return nil, err
	}
	s := &sideRun{i: i, d: d, rec: rec, dry: true, box: make(map[backend.MailboxName]boxAt), uses: usesOf(list)}
	taken := make(map[string]bool)
	gone := i.wouldGo(plan)
	plan = slices.DeleteFunc(plan, func(w *wanted) bool { return w.LeftOut })
	for _, w := range plan {
		s.box[w.Name] = boxAt{raw: w.raw, shown: w.shown, ok: true, exists: w.exists, created: !w.exists, second: taken[w.raw]}
		taken[w.raw] = true
	}
	if err := s.run(ctx); err != nil {
		return nil, err
	}
	var create []backend.ImportNote
	for _, w := range plan {
		if !w.exists {
			create = append(create, backend.ImportNote{Mailbox: w.Name, What: fmt.Sprintf("mailbox %q created", w.shown)})
		}
	}
	s.out.Changed = append(append(create, gone...), s.out.Changed...)
	s.out.Left = append(i.Notes(), s.out.Left...)
	return s.out, nil
}

// wouldGo tells which mailboxes of the target a copy would delete; callers hold mu.
func (i *account) wouldGo(all []*wanted) (notes []backend.ImportNote) {
	raws := i.extra(all)
	if i.o.Rules.DeleteFolders {
		for _, b := range i.mailboxes() {
			if b.name != backend.Inbox && !i.shared(b) && !slices.ContainsFunc(all, func(w *wanted) bool { return w.Name == b.name || w.raw == b.raw }) {
				raws = append(raws, b.raw)
			}
		}
	}
	slices.Sort(raws)
	for _, raw := range raws {
		name, _ := remote.DecodeName(raw)
		notes = append(notes, backend.ImportNote{What: fmt.Sprintf("mailbox %q deleted", name)})
	}
	return notes
}

// usesOf are the special uses of a plan's mailboxes.
func usesOf(list []backend.ImportMailbox) map[backend.MailboxName][]imap.MailboxAttr {
	uses := make(map[backend.MailboxName][]imap.MailboxAttr)
	for _, b := range list {
		if len(b.SpecialUse) > 0 && !b.LeftOut && b.Name != backend.Inbox && !b.NoSelect {
			uses[b.Name] = b.SpecialUse
		}
	}
	return uses
}

// sumSide sums up the source's side data and what shapes them here.
func (i *account) sumSide(d *backend.SideData, boxes map[backend.MailboxName]boxAt, uses map[backend.MailboxName][]imap.MailboxAttr) (string, error) {
	limits := *d
	limits.Quotas = nil
	for _, q := range d.Quotas { // what is used changes by itself
		q.Limits = slices.Clone(q.Limits)
		for k := range q.Limits {
			q.Limits[k].Usage = 0
		}
		limits.Quotas = append(limits.Quotas, q)
	}
	raws := make(map[backend.MailboxName]string)
	for name, b := range boxes {
		raws[name] = b.raw
	}
	j, err := json.Marshal(struct {
		D    *backend.SideData
		R    *Rules
		Raws map[backend.MailboxName]string
		Uses map[backend.MailboxName][]imap.MailboxAttr
	}{&limits, i.o.Rules, raws, uses})
	sum := sha256.Sum256(j)
	return hex.EncodeToString(sum[:]), err
}

// run carries everything over; a connection that had been idle costs one more try.
func (s *sideRun) run(ctx context.Context) error {
	r := s.i.o.Rules
	err := s.i.do(ctx, func(c *remote.Client) (err error) {
		s.c, s.out = c, &backend.SideCarried{}
		if s.kind, err = c.Kind(ctx); err != nil {
			return err
		}
		s.ids = identifiers{kind: s.kind, from: s.i.o.From, to: s.i.o.To, names: r.Identifiers}
		if s.ids.from == "" {
			s.ids.from, s.ids.to = s.i.user, s.i.user
		}
		var raws []string
		for _, b := range s.box {
			if b.ok && b.exists && !b.second {
				raws = append(raws, b.raw)
			}
		}
		slices.Sort(raws)
		if s.have, err = c.Side(ctx, raws); err != nil {
			return err
		}
		for _, part := range []struct {
			off bool
			do  func(context.Context) error
		}{{false, s.specialUses}, {r.NoACL, s.acls}, {r.NoMetadata, s.metadata}, {r.NoQuota, s.quota}} {
			if part.off {
				continue
			}
			if err := part.do(ctx); err != nil {
				return err
			}
		}
		if r.NoACL && r.TellACL {
			s.noACL("left out (--syncacls sets them)")
		}
		s.others()
		return nil
	})
	if err != nil {
		return fmt.Errorf("side data at the target: %w", err)
	}
	if r.NoSieve {
		return nil
	}
	return s.scripts(ctx)
}

// others names what belongs to mailboxes of somebody else.
func (s *sideRun) others() {
	if n := len(s.d.Shared); n > 0 {
		s.left("", "what the user has seen in %d mailboxes of others: messages have other UIDs at the target", n)
	}
	for _, name := range s.d.Subscribed {
		s.left("", "subscription to %q, a mailbox of somebody else", name)
	}
}
