package target

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// Prepare implements backend.ForeignImport.
func (i *account) Prepare(ctx context.Context, boxes []backend.ImportMailbox) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(boxes) > 1 || i.uses == nil {
		i.uses = usesOf(boxes)
	}
	if i.allPrepared(boxes) {
		return nil
	}
	if fresh := i.hasSurvey() || i.watched; !fresh {
		if err := i.do(ctx, func(c *remote.Client) (err error) {
			i.list, err = c.Survey(ctx)
			return err
		}); err != nil {
			return fmt.Errorf("survey of the target: %w", err)
		}
	}
	i.watched = false
	all, err := i.plan(boxes)
	if err != nil {
		return err
	}
	p := slices.DeleteFunc(slices.Clone(all), func(w *wanted) bool { return w.LeftOut })
	if err := i.renames(ctx, all); err != nil {
		return err
	}
	if err := i.create(ctx, p); err != nil {
		return err
	}
	if err := i.adoptNames(p); err != nil {
		return err
	}
	if err := i.deleteExtra(ctx, all, len(i.prepared) == 0 && len(boxes) > 1); err != nil {
		return err
	}
	if err := i.selectNew(ctx, p); err != nil {
		return err
	}
	if i.prepared == nil {
		i.prepared = make(map[backend.MailboxName]bool)
	}
	for _, b := range boxes {
		i.prepared[b.Name] = !b.LeftOut
	}
	return nil
}

func (i *account) allPrepared(boxes []backend.ImportMailbox) bool {
	for _, b := range boxes {
		if !i.prepared[b.Name] && !b.LeftOut {
			return false
		}
	}
	return i.list != nil
}

// wanted is a mailbox as the target shall have it.
type wanted struct {
	backend.ImportMailbox
	shown, raw string
	want       string // what the target refused
	exists     bool
	failed     error
}

// plan names the mailboxes: each its own, unless a rule puts two together.
func (i *account) plan(boxes []backend.ImportMailbox) ([]*wanted, error) {
	n, err := newNamer(i.o.Rules, i.source, personal(i.list))
	if err != nil {
		return nil, backend.Errorf(backend.KindInvalid, "A rule for names cannot be followed.", "%w", err)
	}
	byName := make(map[string]*remote.ListEntry)
	for k := range i.list.Mailboxes {
		e := &i.list.Mailboxes[k]
		byName[foldInbox(e.Name)] = e
		for _, a := range e.Attrs {
			if n.uses[a] == "" {
				n.uses[a] = e.Name
			}
		}
	}
	taken, byRule := make(map[string]backend.MailboxName), make(map[string]bool)
	var out []*wanted
	for k := range boxes {
		b := &boxes[k]
		if b.NoSelect {
			continue
		}
		shown, note, wished := n.name(b)
		for taken[foldInbox(shown)] != "" {
			if wished || byRule[foldInbox(shown)] {
				note = fmt.Sprintf("goes to %q together with %q", shown, i.source.Show(taken[foldInbox(shown)]))
				break
			}
			shown, note = shown+"_", "another mailbox has this name"
		}
		taken[foldInbox(shown)], byRule[foldInbox(shown)] = b.Name, wished || byRule[foldInbox(shown)]
		w := &wanted{ImportMailbox: *b, shown: shown, raw: remote.EncodeName(shown)}
		if old := i.boxes[b.Name]; old != nil && old.want == w.raw && old.want != "" {
			w.want, w.raw = old.want, old.raw // as an earlier run had to
			w.shown, _ = remote.DecodeName(w.raw)
			note = "the target refused the name"
			shown = w.shown
		}
		if e := byName[foldInbox(w.shown)]; e != nil {
			w.raw, w.exists = e.Raw, e.Selectable()
		}
		if old := i.boxes[b.Name]; i.o.Exact != nil && old != nil { // whatever its name says
			w.raw, w.exists = old.raw, slices.ContainsFunc(i.list.Mailboxes, func(e remote.ListEntry) bool { return e.Raw == old.raw && e.Selectable() })
		}
		if note != "" && !b.LeftOut {
			i.note(backend.ImportNote{Mailbox: b.Name, What: fmt.Sprintf("%q became %q: %s", i.source.Show(b.Name), shown, note)})
		}
		out = append(out, w)
	}
	return out, nil
}

func foldInbox(s string) string {
	if strings.EqualFold(s, string(backend.Inbox)) {
		return string(backend.Inbox)
	}
	return s
}

// personal is the target's namespace of the user's own mailboxes.
func personal(a *remote.Account) backend.Namespace {
	if len(a.Namespaces.Personal) > 0 {
		return a.Namespaces.Personal[0]
	}
	for _, e := range a.Mailboxes {
		if e.Delimiter != "" {
			return backend.Namespace{Delimiter: e.Delimiter}
		}
	}
	return backend.DefaultNamespace
}

// renames finds mailboxes of the source that have another name now, by their
// UIDVALIDITY, and renames them at the target.
func (i *account) renames(ctx context.Context, p []*wanted) error {
	planned, validity := make(map[backend.MailboxName]bool), make(map[uint32]int)
	for _, w := range p {
		planned[w.Name] = true
		validity[w.UIDValidity]++
	}
	gone := make(map[uint32]*mailbox)
	for name, b := range i.boxes {
		v := b.m.header().SrcValidity
		validity[v]++
		if stored, _ := b.m.counts(); !planned[name] && stored > 0 && !i.shared(b) {
			gone[v] = b
		}
	}
	if i.o.Exact != nil {
		return i.exactRenames(ctx, p, gone, validity)
	}
	byDepth := slices.SortedStableFunc(slices.Values(p), func(x, y *wanted) int { return len(x.raw) - len(y.raw) })
	for _, w := range byDepth { // parents first: their descendants go with them
		b := gone[w.UIDValidity]
		if b == nil || w.LeftOut || w.UIDValidity == 0 || validity[w.UIDValidity] != 2 || i.boxes[w.Name] != nil || w.exists {
			continue
		}
		if !i.has(w.raw) || i.has(b.raw) {
			err := i.do(ctx, func(c *remote.Client) error { return c.RenameMailbox(ctx, b.raw, w.raw) })
			if err != nil && !refusal(err) {
				return err
			}
			if err != nil { // copied under its new name
				i.note(backend.ImportNote{Mailbox: w.Name, What: fmt.Sprintf("was renamed, which the target refused: %v", err)})
				continue
			}
			i.o.Log.Info("renamed at the target", "from", b.raw, "to", w.raw)
			if err := i.do(ctx, func(c *remote.Client) (err error) {
				i.list, err = c.Survey(ctx)
				return err
			}); err != nil {
				return err
			}
		}
		i.orphaned(b.raw)
		w.exists = true
		if err := i.take(b, w); err != nil {
			return err
		}
	}
	return nil
}

// has reports a mailbox of the list that can be opened; callers hold mu.
func (i *account) has(raw string) bool {
	return slices.ContainsFunc(i.list.Mailboxes, func(e remote.ListEntry) bool { return e.Raw == raw && e.Selectable() })
}

// take gives a map another name.
func (i *account) take(b *mailbox, w *wanted) error {
	i.state.Lock()
	defer i.state.Unlock()
	if err := i.record(indexed{Name: w.Name, Raw: w.raw, Want: w.want, File: b.file}); err != nil {
		return err
	}
	if err := i.record(indexed{Name: b.name, Gone: true}); err != nil {
		return err
	}
	delete(i.boxes, b.name)
	b.name, b.raw, b.want, b.checked, b.sel = w.Name, w.raw, w.want, false, nil
	i.boxes[w.Name] = b
	return nil
}

// create makes what is missing; a name that the target refuses is tried in a
// plainer form.
func (i *account) create(ctx context.Context, p []*wanted) error {
	for attempt := range 2 {
		var missing []*wanted
		var boxes []remote.NewMailbox
		seen := make(map[string]bool)
		for _, w := range p {
			if w.exists || seen[w.raw] {
				continue
			}
			seen[w.raw] = true
			n := remote.NewMailbox{Raw: w.raw}
			if len(w.SpecialUse) > 0 && w.Name != backend.Inbox {
				n.Use = w.SpecialUse[0]
			}
			missing, boxes = append(missing, w), append(boxes, n)
		}
		if len(missing) == 0 {
			return nil
		}
		var errs []error
		if err := i.do(ctx, func(c *remote.Client) (err error) {
			errs, err = c.CreateMailboxes(ctx, boxes)
			return err
		}); err != nil {
			return fmt.Errorf("create mailboxes: %w", err)
		}
		for k, w := range missing {
			if backend.IsKind(errs[k], backend.KindTemporary) { // it says nothing of the name
				return fmt.Errorf("create %q: %w", w.shown, errs[k])
			}
			w.exists, w.failed = errs[k] == nil || backend.IsKind(errs[k], backend.KindExists), errs[k]
			if errs[k] == nil {
				i.madeNow(w.raw)
			}
			if w.exists {
				w.failed = nil
			} else if plain := plainer(w.shown, i.list); attempt == 0 && !slices.ContainsFunc(p, func(o *wanted) bool { return o.shown == plain }) {
				i.note(backend.ImportNote{Mailbox: w.Name, What: fmt.Sprintf("%q became %q: the target refused the name: %v", i.source.Show(w.Name), plain, errs[k])})
				w.want = w.raw
				w.shown, w.raw = plain, remote.EncodeName(plain)
				for k := range i.list.Mailboxes {
					w.exists = w.exists || i.list.Mailboxes[k].Raw == w.raw
				}
				if w.exists {
					w.failed = nil
				}
			}
		}
		for _, w := range p { // those that go together
			if o := slices.IndexFunc(missing, func(o *wanted) bool { return o.raw == w.raw }); o >= 0 {
				w.exists, w.failed = missing[o].exists, missing[o].failed
			}
		}
	}
	return nil
}

// madeNow notes a mailbox that nobody else has used yet.
func (i *account) madeNow(raw string) {
	if i.created == nil {
		i.created = make(map[string]bool)
	}
	i.created[raw] = true
}

// plainer replaces what servers do not like in names.
func plainer(shown string, a *remote.Account) string {
	ns := personal(a)
	rest := strings.TrimPrefix(shown, ns.Prefix)
	out := strings.Map(func(r rune) rune {
		if strings.ContainsRune(ns.Delimiter, r) || unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune(" -_.,+@=", r) {
			return r
		}
		return '_'
	}, rest)
	parts := strings.Split(out, ns.Delimiter)
	for k, s := range parts {
		if t := strings.Trim(s, " ."); t != "" {
			parts[k] = t
		} else {
			parts[k] = "_"
		}
	}
	if out = strings.Join(parts, ns.Delimiter); out == rest { // a reserved word
		out += "_"
	}
	return shown[:len(shown)-len(rest)] + out
}

// adoptNames gives each mailbox its map.
func (i *account) adoptNames(p []*wanted) error {
	i.state.Lock()
	defer i.state.Unlock()
	named := make(map[backend.MailboxName]*mailbox)
	for _, w := range p {
		b := i.boxes[w.Name]
		if b != nil && b.raw == w.raw {
			b.failed = w.failed
			continue
		}
		if b != nil { // the rules name another one now
			if err := b.m.reset(mapHeader{}); err != nil {
				return err
			}
		} else {
			i.files++
			m, err := i.openMap(i.files)
			if err != nil {
				return err
			}
			b = &mailbox{i: i, name: w.Name, file: i.files, m: m}
		}
		b.raw, b.want, b.failed, b.checked, b.sel = w.raw, w.want, w.failed, false, nil
		if err := i.write(indexed{Name: w.Name, Raw: w.raw, Want: w.want, File: b.file}); err != nil {
			return err
		}
		named[w.Name] = b
	}
	if len(named) == 0 {
		return nil
	}
	maps.Copy(i.boxes, named)
	return i.index.Sync()
}

// extra are the target's mailboxes that nothing of the source goes to, nor would
// if nothing were left out, where the rules ask for them to go; callers hold mu.
func (i *account) extra(all []*wanted) (extra []string) {
	if !i.o.Rules.DeleteFolders || i.o.Exact != nil {
		return nil
	}
	keep := make(map[string]bool)
	for _, w := range all {
		keep[w.raw] = true
	}
	foreign := append(slices.Clone(i.list.Namespaces.Other), i.list.Namespaces.Shared...)
	for k := range i.list.Mailboxes {
		e := &i.list.Mailboxes[k]
		own := !slices.ContainsFunc(foreign, func(ns backend.Namespace) bool { return ns.Prefix != "" && strings.HasPrefix(e.Name, ns.Prefix) })
		mapped := slices.ContainsFunc(i.mailboxes(), func(b *mailbox) bool { return b.raw == e.Raw })
		if e.Selectable() && own && !keep[e.Raw] && !mapped && foldInbox(e.Name) != string(backend.Inbox) {
			extra = append(extra, e.Raw)
		}
	}
	if tooMany(len(extra), len(i.list.Mailboxes)) && !i.o.Rules.MassDelete {
		i.note(backend.ImportNote{What: fmt.Sprintf("%d of %d mailboxes of the target would be deleted: none was (allow mass deletion to do so)",
			len(extra), len(i.list.Mailboxes))})
		return nil
	}
	return extra
}

// deleteExtra removes them, at the first plan of a run.
func (i *account) deleteExtra(ctx context.Context, all []*wanted, first bool) error {
	if !first {
		return nil
	}
	extra := i.extra(all)
	slices.Sort(extra)
	slices.Reverse(extra) // descendants first
	for _, raw := range extra {
		if err := i.do(ctx, func(c *remote.Client) error { return c.DeleteMailbox(ctx, raw) }); err != nil {
			if !refusal(err) {
				return err
			}
			i.note(backend.ImportNote{What: fmt.Sprintf("mailbox %q of the target could not be deleted: %v", raw, err)})
			continue
		}
		i.orphaned(raw)
		i.note(backend.ImportNote{What: fmt.Sprintf("mailbox %q of the target was deleted: the old store has none of this name", raw)})
	}
	return nil
}

func (i *account) mailboxes() (out []*mailbox) {
	i.state.Lock()
	defer i.state.Unlock()
	for _, b := range i.boxes {
		out = append(out, b)
	}
	return out
}

// selectNew opens the mailboxes whose state at the target is not the one that
// the map remembers, all in one round trip.
func (i *account) selectNew(ctx context.Context, p []*wanted) error {
	status := make(map[string]*remote.Status)
	for k := range i.list.Mailboxes {
		status[i.list.Mailboxes[k].Raw] = i.list.Mailboxes[k].Status
	}
	var open []*mailbox
	var raws []string
	for _, w := range p {
		b := i.box(w.Name)
		if b.failed != nil || b.checked {
			continue
		}
		h := b.m.header()
		_, doubts := b.m.counts()
		if st := status[b.raw]; st != nil && doubts == 0 && h.DstValidity != 0 && st.UIDValidity == h.DstValidity &&
			st.Messages == h.DstMessages && st.UIDNext == h.DstUIDNext {
			b.checked, b.broken = true, i.broken
			b.seen(st.Messages, st.UIDNext)
			continue
		}
		open, raws = append(open, b), append(raws, b.raw)
	}
	if len(raws) == 0 {
		return nil
	}
	var sels []*remote.Selected
	if err := i.do(ctx, func(c *remote.Client) (err error) {
		sels, err = c.SelectEach(ctx, raws)
		return err
	}); err != nil {
		return fmt.Errorf("open mailboxes: %w", err)
	}
	for k, b := range open {
		if b.sel = sels[k]; b.sel == nil {
			b.failed = backend.Errorf(backend.KindInvalid, "The target does not open a mailbox.", "mailbox %q cannot be selected", b.raw)
		}
	}
	return nil
}

// tooMany is the guard against mass deletion: more than a tenth, and more than ten.
func tooMany(removed, of int) bool { return removed > 10 && removed*10 > of }

var systemFlags = []imap.Flag{imap.FlagSeen, imap.FlagAnswered, imap.FlagFlagged, imap.FlagDeleted, imap.FlagDraft}
