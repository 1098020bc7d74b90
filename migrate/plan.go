package migrate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// Exception is something that could not be carried over as it was.
type Exception struct {
	Mailbox string   `json:"mailbox,omitempty"` // as the old store shows it
	UID     imap.UID `json:"uid,omitempty"`
	What    string   `json:"what"`
	// Skipped: the thing is missing at the new store; false: it is there in
	// another form.
	Skipped bool `json:"skipped,omitempty"`
}

// planned is a mailbox to carry over.
type planned struct {
	raw     string // in the old store's octets
	shown   string // its text
	name    backend.MailboxName
	special []imap.MailboxAttr
	hollow  bool // \NoSelect: a name only
	status  remote.Status
	known   bool // status was told
}

// plan is what an account holds, in the order of names.
type plan struct {
	namespace     backend.Namespace
	boxes         []planned
	left          []planned // by a filter
	subscriptions []backend.MailboxName
	exceptions    []Exception
	// foreign are mailboxes of others that the user sees, and subscribed names
	// of such ones.
	foreign    []planned
	subscribed []string
}

// makePlan names the mailboxes of an account. Every personal mailbox gets a
// name of its own: names that the namespace does not allow, or that two
// mailboxes share, are changed and reported, never merged or left out.
func makePlan(a *remote.Account) *plan {
	p := &plan{namespace: personal(a)}
	foreign := append(slices.Clone(a.Namespaces.Other), a.Namespaces.Shared...)
	taken := make(map[backend.MailboxName]bool, len(a.Mailboxes))
	entries := slices.Clone(a.Mailboxes)
	// Well-formed names first: they keep theirs when another decodes alike.
	slices.SortStableFunc(entries, func(x, y remote.ListEntry) int {
		return strings.Compare(order(x), order(y))
	})
	for _, e := range entries {
		if inside(e.Name, foreign) {
			p.note(e.Name, "mailbox of another user or a shared one: not part of this account")
			if e.Selectable() {
				p.foreign = append(p.foreign, planned{raw: e.Raw, shown: e.Name})
			}
			continue
		}
		name, changed := canonical(p.namespace, e)
		for taken[name] {
			name += "_"
			changed = "another mailbox has this name"
		}
		taken[name] = true
		if changed != "" {
			p.note(e.Name, fmt.Sprintf("name %q (on the wire %q) became %q: %s", e.Name, e.Raw, p.namespace.Show(name), changed))
		}
		b := planned{raw: e.Raw, shown: e.Name, name: name, hollow: !e.Selectable(), special: specialUse(e.Attrs)}
		if e.Status != nil {
			b.status, b.known = *e.Status, true
		}
		p.boxes = append(p.boxes, b)
	}
	slices.SortFunc(p.boxes, func(x, y planned) int { return strings.Compare(string(x.name), string(y.name)) })
	p.subscribe(a.Subscriptions, foreign)
	return p
}

func order(e remote.ListEntry) string {
	if e.ValidName {
		return "0" + e.Raw
	}
	return "1" + e.Raw
}

func (p *plan) note(mailbox, what string) {
	p.exceptions = append(p.exceptions, Exception{Mailbox: mailbox, What: what})
}

// personal is the namespace of the user's own mailboxes. A store without
// NAMESPACE shows its delimiter in LIST.
func personal(a *remote.Account) backend.Namespace {
	if len(a.Namespaces.Personal) > 0 {
		ns := a.Namespaces.Personal[0]
		if ns.Delimiter == "" {
			ns.Delimiter = backend.DefaultNamespace.Delimiter
		}
		return ns
	}
	for _, e := range a.Mailboxes {
		if e.Delimiter != "" {
			return backend.Namespace{Delimiter: e.Delimiter}
		}
	}
	return backend.DefaultNamespace
}

// inside reports whether name lies in one of the namespaces.
func inside(name string, spaces []backend.Namespace) bool {
	for _, ns := range spaces {
		if ns.Prefix != "" && (strings.HasPrefix(name, ns.Prefix) || name == strings.TrimSuffix(ns.Prefix, ns.Delimiter)) {
			return true
		}
	}
	return false
}

// canonical is the name of a listed mailbox; changed says why it is not what
// the store shows.
func canonical(ns backend.Namespace, e remote.ListEntry) (name backend.MailboxName, changed string) {
	shown := e.Name
	if n, ok := ns.Name(shown); ok {
		return n, ""
	}
	changed = "the name does not fit its namespace"
	if t := strings.TrimRight(shown, ns.Delimiter); t != "" {
		if n, ok := ns.Name(t); ok {
			return n, changed
		}
	}
	rest := strings.TrimPrefix(shown, ns.Prefix)
	parts := strings.Split(strings.ReplaceAll(rest, backend.NameSeparator, "_"), ns.Delimiter)
	for i, s := range parts {
		if s == "" {
			parts[i] = "_"
		}
	}
	return backend.JoinName(parts...), changed
}

// specialUse keeps the attributes of RFC 6154, and drops what only describes
// the hierarchy.
func specialUse(attrs []imap.MailboxAttr) (special []imap.MailboxAttr) {
	for _, a := range attrs {
		for _, s := range specialUses {
			if strings.EqualFold(string(a), string(s)) {
				special = append(special, s)
			}
		}
	}
	return special
}

var specialUses = []imap.MailboxAttr{imap.MailboxAttrAll, imap.MailboxAttrArchive, imap.MailboxAttrDrafts,
	imap.MailboxAttrFlagged, imap.MailboxAttrJunk, imap.MailboxAttrSent, imap.MailboxAttrTrash}

// subscribe carries the subscriptions, by the mailbox's planned name where it
// exists.
func (p *plan) subscribe(entries []remote.ListEntry, foreign []backend.Namespace) {
	byRaw := make(map[string]backend.MailboxName, len(p.boxes))
	for _, b := range p.boxes {
		byRaw[b.raw] = b.name
	}
	for _, e := range entries {
		if inside(e.Name, foreign) && e.Selectable() {
			p.subscribed = append(p.subscribed, e.Name)
			continue
		}
		if !e.Selectable() && byRaw[e.Raw] == "" || inside(e.Name, foreign) {
			continue // LSUB shows unsubscribed parents as \NoSelect
		}
		name, ok := byRaw[e.Raw]
		if !ok {
			var changed string
			if name, changed = canonical(p.namespace, e); changed != "" {
				p.note(e.Name, "subscription to a mailbox that does not exist: "+changed)
				continue
			}
		}
		p.subscriptions = append(p.subscriptions, name)
	}
	slices.Sort(p.subscriptions)
	p.subscriptions = slices.Compact(p.subscriptions)
}
