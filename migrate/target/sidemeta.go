package target

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// specialUse is the annotation that RFC 6154 keeps special uses in.
const specialUse = "/private/specialuse"

// realUses are the special uses that mailboxes have; \All and \Flagged are views.
var realUses = []imap.MailboxAttr{imap.MailboxAttrSent, imap.MailboxAttrDrafts, imap.MailboxAttrTrash, imap.MailboxAttrJunk,
	imap.MailboxAttrArchive, imap.MailboxAttrImportant}

// specialUses gives special uses to mailboxes that did not get them when they
// were created, unless the target has another mailbox for that.
func (s *sideRun) specialUses(ctx context.Context) error {
	if len(s.uses) == 0 {
		return nil
	}
	now, err := s.c.SpecialUses(ctx)
	if err != nil {
		return err
	}
	holder := make(map[imap.MailboxAttr]string)
	for raw, attrs := range now {
		for _, a := range attrs {
			holder[a] = raw
		}
	}
	var changes []remote.MetadataChange
	var of []backend.MailboxName
	for name, attrs := range s.uses {
		b := s.at(name)
		if !b.ok || b.second {
			continue
		}
		for _, use := range attrs {
			switch by := holder[use]; {
			case !slices.Contains(realUses, use), slices.Contains(now[b.raw], use):
			case by != "":
				shown, _ := remote.DecodeName(by)
				s.left(name, "special use %s: the target has %q for that", use, shown)
			case s.dry && !b.exists && s.c.Has("CREATE-SPECIAL-USE"):
				s.changed(name, "special use %s", use)
			case s.kind == backend.StoreDovecot:
				s.left(name, "special use %s: Dovecot takes it from its configuration only", use)
			case !s.c.Has("SPECIAL-USE") || !s.c.Has("METADATA"):
				s.left(name, "special use %s: the target does not let it be set", use)
			default:
				changes, of = append(changes, remote.MetadataChange{Raw: b.raw, Entry: specialUse, Value: []byte(use)}), append(of, name)
			}
		}
	}
	return s.setMetadata(ctx, changes, of, func(int) {})
}

// metadata carries annotations over.
func (s *sideRun) metadata(ctx context.Context) error {
	var changes []remote.MetadataChange
	var of []backend.MailboxName
	for _, m := range s.d.Metadata {
		b := s.at(m.Mailbox)
		if m.Mailbox == "" {
			b = boxAt{ok: true, exists: true}
		}
		have := make(map[string][]byte)
		for _, e := range s.have.Metadata[b.raw] {
			have[e.Name] = e.Value
		}
		for _, e := range m.Entries {
			switch why := s.noMetadata(m.Mailbox, b, e); {
			case strings.EqualFold(e.Name, specialUse): // that is specialUses'
			case strings.Contains(e.Name, "/vendor/cmu/") && string(e.Value) == "false": // as Cyrus has it for everybody
			case why != "":
				s.left(m.Mailbox, "annotation %s: %s", e.Name, why)
			case bytes.Equal(have[e.Name], e.Value) && have[e.Name] != nil:
				s.keepMetadata(m.Mailbox, e.Name, e.Value)
			case s.rec.Metadata[m.Mailbox][e.Name] == sumOf(e.Value) && !s.mirror(): // its owner's change
			default:
				changes, of = append(changes, remote.MetadataChange{Raw: b.raw, Entry: e.Name, Value: e.Value}), append(of, m.Mailbox)
			}
		}
	}
	gone, goneOf := s.goneMetadata()
	changes, of = append(changes, gone...), append(of, goneOf...)
	return s.setMetadata(ctx, changes, of, func(k int) { s.keepMetadata(of[k], changes[k].Entry, changes[k].Value) })
}

// noMetadata says why an annotation has no place at the target.
func (s *sideRun) noMetadata(box backend.MailboxName, b boxAt, e backend.MetadataEntry) string {
	vendor := func(prefix string) bool { return strings.Contains(e.Name, "/vendor/"+prefix) }
	switch {
	case !b.ok || b.second:
		return "the mailbox has none of its own at the target"
	case box != "" && !s.c.Has("METADATA"), box == "" && !s.c.Has("METADATA") && !s.c.Has("METADATA-SERVER"):
		return "the target has no annotations (METADATA)"
	case vendor("cmu/") && s.kind != backend.StoreCyrus:
		return "it is a setting of Cyrus"
	case vendor("vendor.dovecot/") && s.kind != backend.StoreDovecot:
		return "it is a setting of Dovecot"
	case bytes.IndexByte(e.Value, 0) >= 0:
		return "it has a NUL in it"
	}
	return ""
}

// goneMetadata finds annotations that were carried, are as they were, and are
// gone from the source.
func (s *sideRun) goneMetadata() (changes []remote.MetadataChange, of []backend.MailboxName) {
	there := make(map[backend.MailboxName]map[string]bool)
	for _, m := range s.d.Metadata {
		there[m.Mailbox] = make(map[string]bool)
		for _, e := range m.Entries {
			there[m.Mailbox][e.Name] = true
		}
	}
	for name, carried := range s.rec.Metadata {
		b := s.at(name)
		if !b.ok && name != "" {
			continue
		}
		for _, e := range s.have.Metadata[b.raw] {
			if sum := carried[e.Name]; sum != "" && sum == sumOf(e.Value) && !there[name][e.Name] {
				changes, of = append(changes, remote.MetadataChange{Raw: b.raw, Entry: e.Name}), append(of, name)
			}
		}
	}
	return changes, of
}

// setMetadata carries changes out; taken is told those that the target took.
func (s *sideRun) setMetadata(ctx context.Context, changes []remote.MetadataChange, of []backend.MailboxName, taken func(int)) error {
	if len(changes) == 0 {
		return nil
	}
	errs := make([]error, len(changes))
	if !s.dry {
		var err error
		if errs, err = s.c.SetMetadata(ctx, changes); err != nil {
			return err
		}
	}
	for k, err := range errs {
		ch := &changes[k]
		what := "annotation " + ch.Entry
		switch {
		case ch.Entry == specialUse:
			what = "special use " + string(ch.Value)
		case ch.Value == nil:
			what += " removed"
		}
		switch {
		case err == nil:
			s.changed(of[k], "%s", what)
			taken(k)
		case backend.IsKind(err, backend.KindTooLarge):
			s.left(of[k], "%s: its %d octets are more than the target keeps: %s", what, len(ch.Value), plainly(err))
		case backend.IsKind(err, backend.KindOverQuota):
			s.left(of[k], "%s: the target keeps no more of them: %s", what, plainly(err))
		default:
			s.left(of[k], "%s: %s", what, plainly(err))
		}
	}
	return nil
}

func (s *sideRun) keepMetadata(box backend.MailboxName, entry string, value []byte) {
	m := s.rec.Metadata[box]
	if m == nil {
		m = make(map[string]string)
		s.rec.Metadata[box] = m
	}
	if value == nil {
		delete(m, entry)
		return
	}
	m[entry] = sumOf(value)
}

func sumOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}
