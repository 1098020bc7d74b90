package imapd

import (
	"context"
	"slices"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/cluster/engine"
	"mailferry/internal/line"
	"mailferry/store"
)

// view is what the client knows of its selected mailbox.
type view struct {
	mailbox  uint64 // the store's id
	readOnly bool
	uids     []imap.UID // ascending; the message with number n is uids[n-1]
	modseq   uint64     // everything up to here was told, or is in gone
	// gone holds messages of uids that are expunged and not yet told.
	gone map[imap.UID]struct{}
	// told holds own changes after modseq whose outcome the client has seen.
	told   map[imap.UID]uint64
	recent line.NumSet // UIDs of messages that are \Recent in this session
	flags  []imap.Flag
	watch  *engine.Watcher
	force  bool // look for changes at the end of the command
	dead   bool // the mailbox is no more
	// newcomers are messages that RESUME found and the client does not know.
	newcomers []imap.UID
}

// seq is the message's number, 0 when the client does not know it.
func (v *view) seq(uid imap.UID) uint32 {
	i, ok := slices.BinarySearch(v.uids, uid)
	if !ok {
		return 0
	}
	return uint32(i + 1)
}

// last is the number that "*" stands for.
func (v *view) last(uid bool) uint32 {
	switch {
	case !uid:
		return uint32(len(v.uids))
	case len(v.uids) == 0:
		return 0
	}
	return uint32(v.uids[len(v.uids)-1])
}

// resolve returns the messages of a set that are in the view, as a set of UIDs
// without gaps: neighbours in the view are one range. ok is false when a
// message number is above the last one (RFC 3501 section 9, seq-number).
func (v *view) resolve(set line.NumSet, uid bool) (out imap.UIDSet, ok bool) {
	set = set.Resolve(v.last(uid))
	if !uid {
		return v.fromNumbers(set)
	}
	for _, r := range set {
		i, _ := slices.BinarySearch(v.uids, imap.UID(r.Start))
		j, found := slices.BinarySearch(v.uids, imap.UID(r.Stop))
		if found {
			j++
		}
		if i < j {
			out = append(out, imap.UIDRange{Start: v.uids[i], Stop: v.uids[j-1]})
		}
	}
	return out, true
}

func (v *view) fromNumbers(set line.NumSet) (out imap.UIDSet, ok bool) {
	for _, r := range set {
		if int64(r.Stop) > int64(len(v.uids)) {
			return nil, false
		}
		out = append(out, imap.UIDRange{Start: v.uids[r.Start-1], Stop: v.uids[r.Stop-1]})
	}
	return out, true
}

// count is the number of messages of the view in a set that resolve returned.
func (v *view) count(uids imap.UIDSet) (n int) {
	for _, r := range uids {
		i, _ := slices.BinarySearch(v.uids, r.Start)
		j, found := slices.BinarySearch(v.uids, r.Stop)
		if found {
			j++
		}
		n += j - i
	}
	return n
}

// openView takes a snapshot as the view. The watch is opened before the
// snapshot, so that no change falls between them.
func (s *session) openView(mb store.Mailbox, readOnly bool) *view {
	v := &view{mailbox: mb.ID, readOnly: readOnly, gone: map[imap.UID]struct{}{}, told: map[imap.UID]uint64{},
		watch: s.account.Watch(mb.ID)}
	s.server.recents.enter(s.recentBox(v))
	return v
}

// closeView gives back what openView took.
func (s *session) closeView(v *view) {
	v.watch.Close()
	s.leaveRecent(v)
}

// unselect drops the view.
func (s *session) unselect() {
	if s.view != nil {
		s.closeView(s.view)
		s.view = nil
		s.saved = nil
	}
	if s.state == stateSelected {
		s.state = stateAuthenticated
	}
}

// reportChanges tells the client what it does not know yet: EXPUNGE first (if it
// may be sent now), then EXISTS, then flags. Without force it costs nothing as
// long as the store has not woken the view.
func (s *session) reportChanges(ctx context.Context, expunge, force bool) error {
	v := s.view
	select {
	case <-v.watch.C:
		force = true
	default:
		force = force || v.force
	}
	v.force = false
	var news changes
	if force && !v.dead {
		var err error
		if news, err = s.collect(ctx, v); err != nil {
			v.force = true // the wake-up is used up
			return err
		}
	}
	if expunge {
		s.writeExpunged()
	}
	s.writeNews(news)
	return nil
}

// changes is what collect found.
type changes struct {
	flags    []store.Change // of messages in the view
	added    []imap.UID
	keywords []imap.Flag // the mailbox's keywords, nil when none is new
}

// collect reads the changes since v.modseq into the view; expunged messages
// stay in it until they are told.
func (s *session) collect(ctx context.Context, v *view) (changes, error) {
	var out changes
	snap, err := s.account.Snapshot(ctx, v.mailbox)
	if backend.IsKind(err, backend.KindNotFound) {
		v.dead = true
		for _, uid := range v.uids {
			v.gone[uid] = struct{}{}
		}
		return out, nil
	}
	if err != nil {
		return out, err
	}
	defer snap.Close()
	mb := snap.Mailbox()
	for c, err := range snap.Changes(v.modseq) {
		if err != nil {
			return out, err
		}
		known := v.seq(c.UID) != 0
		switch {
		case c.Vanished && known:
			v.gone[c.UID] = struct{}{}
		case c.Vanished:
			v.newcomers = slices.DeleteFunc(v.newcomers, func(uid imap.UID) bool { return uid == c.UID })
		case !known:
			out.added = append(out.added, c.UID)
		case v.told[c.UID] < c.ModSeq:
			out.flags = append(out.flags, c)
		}
	}
	out.added = append(out.added, v.newcomers...)
	v.newcomers = nil
	v.modseq = max(v.modseq, mb.HighestModSeq)
	clear(v.told)
	if len(out.added) > 0 {
		v.uids = append(v.uids, out.added...)
		slices.Sort(v.uids) // nearly always sorted: UIDs rise
		v.uids = slices.Compact(v.uids)
		s.claimRecent(v, slices.Min(out.added), mb)
	}
	if len(mb.Flags) > len(v.flags) {
		v.flags, out.keywords = mb.Flags, mb.Flags
	}
	return out, nil
}

// writeExpunged tells what is gone, from the highest number down.
func (s *session) writeExpunged() {
	v := s.view
	if len(v.gone) == 0 {
		return
	}
	if s.qresync {
		s.writeVanished()
	}
	kept := v.uids[:0]
	first := -1
	for i, uid := range v.uids {
		if _, gone := v.gone[uid]; gone {
			if first < 0 {
				first = i
			}
			if !s.qresync {
				// Numbers fall with each EXPUNGE that was sent.
				s.enc.Text("* ").Number(uint64(len(kept) + 1)).Text(" EXPUNGE").CRLF()
			}
			continue
		}
		kept = append(kept, uid)
	}
	v.uids = kept
	clear(v.gone)
}

// writeVanished: RFC 7162 section 3.2.10.
func (s *session) writeVanished() {
	uids := make([]imap.UID, 0, len(s.view.gone))
	for uid := range s.view.gone {
		uids = append(uids, uid)
	}
	slices.Sort(uids)
	s.enc.Text("* VANISHED ").NumSet(setOf(uids)).CRLF()
}

// setOf is the set of ascending UIDs.
func setOf(uids []imap.UID) line.NumSet {
	var set line.NumSet
	for _, uid := range uids {
		set = set.Add(uint32(uid))
	}
	return set
}

func (s *session) writeNews(n changes) {
	v := s.view
	if len(n.added) > 0 {
		s.enc.Text("* ").Number(uint64(len(v.uids))).Text(" EXISTS").CRLF()
		s.enc.Text("* ").Number(uint64(v.recentCount())).Text(" RECENT").CRLF()
	}
	if n.keywords != nil {
		s.writeFlags(v)
	}
	for _, c := range n.flags {
		if _, gone := v.gone[c.UID]; gone {
			continue
		}
		s.writeFlagsOf(v.seq(c.UID), store.Message{UID: c.UID, ModSeq: c.ModSeq, Flags: c.Flags}, s.qresync)
	}
}

// writeFlagsOf is a FETCH response for changed flags. Once CONDSTORE is enabled
// it carries the modseq (RFC 7162 section 3.1.4.2), under QRESYNC the UID too.
func (s *session) writeFlagsOf(seq uint32, m store.Message, uid bool) {
	s.enc.Text("* ").Number(uint64(seq)).Text(" FETCH (")
	if uid {
		s.enc.Text("UID ").Number(uint64(m.UID)).SP()
	}
	s.writeFlagItem(m)
	if s.condstore {
		s.enc.Text(" MODSEQ (").Number(m.ModSeq).Text(")")
	}
	s.enc.Text(")").CRLF()
}

func (s *session) writeFlagItem(m store.Message) {
	flags := m.Flags
	if s.view.isRecent(m.UID) {
		flags = append(slices.Clone(flags), "\\Recent")
	}
	s.enc.Text("FLAGS ").Flags(flags)
}

var systemFlags = []imap.Flag{imap.FlagAnswered, imap.FlagFlagged, imap.FlagDeleted, imap.FlagSeen, imap.FlagDraft}

// writeFlags writes FLAGS and PERMANENTFLAGS.
func (s *session) writeFlags(v *view) {
	all := slices.Concat(systemFlags, v.flags)
	s.enc.Text("* FLAGS ").Flags(all).CRLF()
	if v.readOnly {
		s.enc.Text("* OK [PERMANENTFLAGS ()] Read-only mailbox").CRLF()
		return
	}
	s.enc.Text("* OK [PERMANENTFLAGS ").Flags(append(all, imap.FlagWildcard)).Text("] Flags permitted").CRLF()
}
