package target

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// acls brings the access rights of the mailboxes to those of the source. What
// the owner may do is never reduced. Entries that only the target has are taken
// away where they come of a mailbox that was just created, of an earlier
// carrying, or where the rules say mirror; else they are named.
func (s *sideRun) acls(ctx context.Context) error {
	if !s.c.Has("ACL") {
		s.noACL("the target has no access rights (ACL)")
		return nil
	}
	var raws []string
	for _, m := range s.d.ACLs {
		if b := s.at(m.Mailbox); b.exists {
			raws = append(raws, b.raw)
		}
	}
	mine, err := s.c.MyRights(ctx, raws)
	if err != nil {
		return err
	}
	s.old = s.c.OldRights()
	var changes []aclChange
	for _, m := range s.d.ACLs {
		b := s.at(m.Mailbox)
		if !b.ok || b.second {
			s.left(m.Mailbox, "access rights: the mailbox has none of its own at the target")
			continue
		}
		changes = append(changes, s.aclOf(m, b, mine[b.raw])...)
	}
	return s.changeACLs(ctx, changes)
}

// noACL names what is not carried over.
func (s *sideRun) noACL(why string) {
	for _, m := range s.d.ACLs {
		for _, e := range m.Entries {
			if w := parseIdentifier(e.Identifier, s.ids.from); w.kind != theOwner {
				s.left(m.Mailbox, "access rights %q of %q: %s", e.Rights, e.Identifier, why)
			}
		}
	}
}

// aclChange is a change, and what is kept of it.
type aclChange struct {
	remote.ACLChange
	box   backend.MailboxName
	quiet bool // the target has it already: it is only kept in mind
}

// aclOf finds what one mailbox needs.
func (s *sideRun) aclOf(m backend.MailboxACL, b boxAt, mine string) (out []aclChange) {
	have := make(map[string]string)
	for _, e := range s.have.ACLs[b.raw] {
		have[e.Identifier] = newRights(e.Rights)
	}
	last := s.rec.ACLs[m.Mailbox]
	want := make(map[string]bool)
	for _, e := range m.Entries {
		w := parseIdentifier(e.Identifier, s.ids.from)
		id, why := s.ids.at(w)
		if why != "" {
			s.left(m.Mailbox, "access rights %q of %q: %s", e.Rights, e.Identifier, why)
			continue
		}
		want[id] = true
		rights, odd := split(newRights(e.Rights), lettersOf(s.kind))
		if w.kind == theOwner {
			out = append(out, s.ownersRights(m.Mailbox, b, w, id, rights, mine)...)
			continue
		}
		if s.old {
			_, lost := oldRights(rights)
			odd += lost
			_, rights = split(rights, lost)
		}
		if odd != "" {
			s.left(m.Mailbox, "rights %q of %q: the target does not have them alone", odd, e.Identifier)
		}
		ch := aclChange{ACLChange: remote.ACLChange{Raw: b.raw, Identifier: id, Rights: rights}, box: m.Mailbox}
		before, carried := last[id]
		switch now, there := have[id]; {
		case there && now == rights, !there && rights == "":
			ch.quiet = true
		case carried && before == rights && !s.mirror(): // its owner's change
			ch.quiet = true
		}
		out = append(out, ch)
	}
	return append(out, s.extraACLs(m, b, have, want, last)...)
}

// ownersRights adds to what the owner may do.
func (s *sideRun) ownersRights(box backend.MailboxName, b boxAt, w who, id, rights, mine string) []aclChange {
	if w.takes {
		s.left(box, "rights %q that are taken away from the owner: an owner's rights are not reduced", rights)
		return nil
	}
	mine = newRights(mine)
	_, missing := split(rights, mine)
	if missing == "" || !b.exists { // a new mailbox is its owner's
		return nil
	}
	return []aclChange{{ACLChange: remote.ACLChange{Raw: b.raw, Identifier: id, Rights: letters(mine + missing)}, box: box}}
}

// extraACLs finds entries that the source does not have.
func (s *sideRun) extraACLs(m backend.MailboxACL, b boxAt, have map[string]string, want map[string]bool, last map[string]string) (out []aclChange) {
	for _, id := range slices.Sorted(maps.Keys(have)) {
		w := parseIdentifier(id, s.ids.to)
		if want[id] || w.kind == theOwner || w.kind == servers && s.kind == backend.StoreDovecot {
			continue
		}
		before, carried := last[id]
		if s.mirror() || b.created || carried && before == have[id] {
			out = append(out, aclChange{ACLChange: remote.ACLChange{Raw: b.raw, Identifier: id, Delete: true}, box: m.Mailbox})
			continue
		}
		s.left(m.Mailbox, "%q has the rights %q at the target, which the old store does not give: kept", id, have[id])
	}
	return out
}

// changeACLs carries changes out and keeps those that were taken in mind.
func (s *sideRun) changeACLs(ctx context.Context, changes []aclChange) error {
	var send []remote.ACLChange
	var of []aclChange
	for _, ch := range changes {
		if ch.quiet {
			s.keepACL(ch)
			continue
		}
		of = append(of, ch)
		if s.old {
			ch.Rights, _ = oldRights(ch.Rights)
		}
		send = append(send, ch.ACLChange)
	}
	errs := make([]error, len(send))
	if !s.dry && len(send) > 0 {
		var err error
		if errs, err = s.c.ChangeACLs(ctx, send); err != nil {
			return err
		}
	}
	for k, err := range errs {
		switch ch := of[k]; {
		case err != nil:
			s.left(ch.box, "access rights %q of %q: %v", ch.Rights, ch.Identifier, plainly(err))
		case ch.Delete:
			s.changed(ch.box, "access rights of %q taken away", ch.Identifier)
			s.keepACL(ch)
		default:
			s.changed(ch.box, "access rights %q of %q", ch.Rights, ch.Identifier)
			s.keepACL(ch)
		}
	}
	return nil
}

func (s *sideRun) keepACL(ch aclChange) {
	m := s.rec.ACLs[ch.box]
	if m == nil {
		m = make(map[string]string)
		s.rec.ACLs[ch.box] = m
	}
	if ch.Delete {
		delete(m, ch.Identifier)
	} else {
		m[ch.Identifier] = ch.Rights
	}
}

// plainly is a refusal in the store's own words.
func plainly(err error) string {
	if s, ok := statusOf(err); ok {
		if s.Code != "" {
			return fmt.Sprintf("the target refused it: [%s] %s", s.Code, s.Text)
		}
		return "the target refused it: " + s.Text
	}
	return err.Error()
}
