package imapd

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/internal/line"
	"mailferry/store"
)

func numString(n uint64) string { return strconv.FormatUint(n, 10) }

func hasFlag(flags []imap.Flag, f imap.Flag) bool {
	return slices.ContainsFunc(flags, func(g imap.Flag) bool { return strings.EqualFold(string(f), string(g)) })
}

// unknownFlag tells a system flag that is none (RFC 3501 section 2.3.2).
func unknownFlag(f imap.Flag) bool {
	return strings.HasPrefix(string(f), "\\") && !hasFlag(systemFlags, f)
}

// wake makes the view look for changes at the end of the command.
func (v *view) wake() { v.force = true }

// expectSet reads the set of messages that a command is about. "$" is the saved
// result of a SEARCH (RFC 5182).
func (s *session) expectSet(c *call, set *line.NumSet, saved *bool) bool {
	if *saved = c.d.Special('$'); *saved {
		return true
	}
	return c.d.ExpectNumSet(set)
}

// messages resolves what expectSet has read.
func (s *session) messages(c *call, set line.NumSet, saved bool) (imap.UIDSet, error) {
	if saved {
		out, _ := s.view.resolve(s.saved, true)
		return out, nil
	}
	out, ok := s.view.resolve(set, c.uid)
	if !ok {
		return nil, bad("Invalid message number")
	}
	return out, nil
}

// storeArguments are those of STORE.
type storeArguments struct {
	set            line.NumSet
	saved          bool
	op             store.FlagOp
	silent         bool
	flags          []imap.Flag
	unchangedSince uint64
	conditional    bool
}

func (s *session) parseStore(c *call) (a storeArguments, err error) {
	d := c.d
	if !d.ExpectSP() || !s.expectSet(c, &a.set, &a.saved) || !d.ExpectSP() {
		return a, d.Err()
	}
	modifier := func() bool {
		if !d.Word("UNCHANGEDSINCE") || !d.ExpectSP() || !d.ExpectNumber64(&a.unchangedSince) {
			return d.Fail("Unknown modifier")
		}
		a.conditional = true
		return true
	}
	if d.ListOf(modifier) {
		d.ExpectSP()
	}
	a.op = store.FlagsReplace
	if d.Special('+') {
		a.op = store.FlagsAdd
	} else if d.Special('-') {
		a.op = store.FlagsRemove
	}
	var item string
	d.Keyword(&item)
	switch item {
	case "FLAGS":
	case "FLAGS.SILENT":
		a.silent = true
	default:
		d.Fail("FLAGS expected")
	}
	if !d.ExpectSP() || !d.ExpectFlags(&a.flags) || !d.ExpectEnd() {
		return a, d.Err()
	}
	a.flags = slices.DeleteFunc(a.flags, func(f imap.Flag) bool { return strings.EqualFold(string(f), "\\Recent") })
	for _, f := range a.flags {
		if unknownFlag(f) {
			return a, bad("Unknown system flag " + string(f))
		}
	}
	return a, nil
}

func runStore(ctx context.Context, s *session, c *call) error {
	a, err := s.parseStore(c)
	if err != nil {
		return err
	}
	v := s.view
	if v.readOnly {
		return no("NOPERM", "Mailbox is read-only")
	}
	uids, err := s.messages(c, a.set, a.saved)
	if err != nil {
		return err
	}
	if a.conditional {
		s.useCondstore()
	}
	// What is known of others' changes is told first; from here on every change
	// that is not ours is later than the view's modseq.
	if err := s.reportChanges(ctx, false, false); err != nil {
		return err
	}
	done, err := s.storeFlags(ctx, uids, a)
	if err != nil {
		return err
	}
	if !a.silent && len(uids) > 0 {
		if err := s.writeStored(ctx, c, uids, done); err != nil {
			return err
		}
	}
	if len(done.failed) > 0 {
		return okay("MODIFIED "+s.numbers(c, done.failed), "Some messages have changed")
	}
	return s.expungeIssued(c, uids)
}

// stored is the outcome of storeFlags.
type stored struct {
	failed imap.UIDSet
	// steps is the number of modseqs that the change was given; a wrong one, as
	// 0 after a second step, only costs another look at the mailbox.
	steps uint64
}

// storeFlags makes the change. Messages that somebody else has changed in the
// meantime get it in a second step, after which they are not counted as told:
// the client has to see what else is new about them.
func (s *session) storeFlags(ctx context.Context, uids imap.UIDSet, a storeArguments) (done stored, err error) {
	v := s.view
	since := v.modseq
	if a.conditional {
		since = min(since, a.unchangedSince)
		if a.unchangedSince == 0 {
			return stored{failed: uids}, nil // RFC 7162 section 3.1.3: fails for every message
		}
	}
	changed, rest, err := s.account.StoreFlags(ctx, v.mailbox, uids, a.op, a.flags, since)
	v.wake()
	if err != nil {
		return done, err
	}
	last := uint64(0)
	for _, m := range changed {
		v.told[m.UID] = m.ModSeq
		if m.ModSeq != last {
			last = m.ModSeq
			done.steps++
		}
		if a.silent && s.condstore {
			s.writeModSeq(m)
		}
	}
	if len(rest) == 0 || a.conditional && since == a.unchangedSince {
		done.failed = rest
		return done, nil
	}
	again := uint64(0)
	if a.conditional {
		again = a.unchangedSince
	}
	_, done.failed, err = s.account.StoreFlags(ctx, v.mailbox, rest, a.op, a.flags, again)
	done.steps = 0
	return done, err
}

// writeModSeq tells the new modseq of a silent change (RFC 7162 section 3.1.3).
func (s *session) writeModSeq(m store.Message) {
	s.enc.Text("* ").Number(uint64(s.view.seq(m.UID))).Text(" FETCH (UID ").Number(uint64(m.UID)).
		Text(" MODSEQ (").Number(m.ModSeq).Text("))").CRLF()
}

// writeStored tells the flags of every message of the set that did not fail.
// When all that happened since the view was up to date is our own steps, the
// view is up to date again.
func (s *session) writeStored(ctx context.Context, c *call, uids imap.UIDSet, done stored) error {
	v := s.view
	failed := line.FromUIDSet(done.failed)
	for {
		v.drain()
		part, err := s.readChunk(ctx, uids, false, nil)
		if err != nil {
			return err
		}
		if mb := part.mailbox; len(mb.Flags) > len(v.flags) {
			v.flags = mb.Flags
			s.writeFlags(v)
		}
		for _, m := range part.messages {
			if seq := v.seq(m.UID); seq != 0 && !failed.Contains(uint32(m.UID)) {
				s.writeFlagsOf(seq, m.Message, c.uid || s.qresync)
				v.told[m.UID] = m.ModSeq
			}
		}
		if uids = part.rest; len(uids) > 0 {
			continue
		}
		if part.mailbox.HighestModSeq == v.modseq+done.steps {
			v.modseq, v.force = part.mailbox.HighestModSeq, false
			clear(v.told)
		}
		return nil
	}
}

// drain takes a wake-up that a look at the mailbox will answer. The caller
// makes sure of the look: here, or at the end of the command.
func (v *view) drain() {
	select {
	case <-v.watch.C:
		v.force = true
	default:
	}
}

// expungeIssued is the answer to a command by number that met messages which
// are gone and not yet told (RFC 5530).
func (s *session) expungeIssued(c *call, uids imap.UIDSet) error {
	set := line.FromUIDSet(uids)
	for uid := range s.view.gone {
		if !c.uid && set.Contains(uint32(uid)) {
			return errExpungeIssued
		}
	}
	return nil
}

var errExpungeIssued = okay("EXPUNGEISSUED", "Some messages are no more")

// numbers is a set of messages of the view in the terms of the command.
func (s *session) numbers(c *call, uids imap.UIDSet) string {
	if c.uid {
		return line.FromUIDSet(uids).String()
	}
	set := line.FromUIDSet(uids)
	var out line.NumSet
	for i, uid := range s.view.uids {
		if set.Contains(uint32(uid)) {
			out = out.Add(uint32(i + 1))
		}
	}
	return out.String()
}

// runExpunge is EXPUNGE and UID EXPUNGE (RFC 4315). What is gone is reported
// with everything else at the end of the command.
func runExpunge(ctx context.Context, s *session, c *call) error {
	v := s.view
	var uids imap.UIDSet
	if c.uid {
		var set line.NumSet
		var saved bool
		if !c.d.ExpectSP() || !s.expectSet(c, &set, &saved) {
			return c.d.Err()
		}
		uids, _ = s.messages(c, set, saved)
	}
	if !c.d.ExpectEnd() {
		return c.d.Err()
	}
	if v.readOnly {
		return no("NOPERM", "Mailbox is read-only")
	}
	if c.uid && len(uids) == 0 {
		return nil
	}
	_, modseq, err := s.account.Expunge(ctx, v.mailbox, uids)
	if err != nil {
		return err
	}
	if s.condstore && s.qresync {
		return okay("HIGHESTMODSEQ "+numString(modseq), "Expunged")
	}
	return nil
}

// parseCopy reads the arguments of COPY and MOVE.
func (s *session) parseCopy(c *call) (uids imap.UIDSet, to backend.MailboxName, err error) {
	var set line.NumSet
	var saved bool
	if !c.d.ExpectSP() || !s.expectSet(c, &set, &saved) || !c.d.ExpectSP() {
		return nil, "", c.d.Err()
	}
	nameErr := s.expectMailbox(c, &to)
	if !c.d.ExpectEnd() {
		return nil, "", c.d.Err()
	}
	if nameErr != nil {
		return nil, "", nameErr
	}
	uids, err = s.messages(c, set, saved)
	return uids, to, err
}

func runCopy(ctx context.Context, s *session, c *call) error {
	uids, to, err := s.parseCopy(c)
	if err != nil || len(uids) == 0 {
		return err
	}
	res, err := s.account.Copy(ctx, s.view.mailbox, uids, to)
	if err != nil {
		return s.copyFailed(ctx, to, err)
	}
	if len(res.Source) == 0 {
		return s.expungeIssued(c, uids)
	}
	return okay(copyUID(res), "COPY completed")
}

// runMove: RFC 6851. COPYUID comes before the EXPUNGEs (section 4.3), in an
// untagged OK.
func runMove(ctx context.Context, s *session, c *call) error {
	uids, to, err := s.parseCopy(c)
	if err != nil {
		return err
	}
	if s.view.readOnly {
		return no("NOPERM", "Mailbox is read-only")
	}
	if len(uids) == 0 {
		return nil
	}
	res, err := s.account.Move(ctx, s.view.mailbox, uids, to)
	if len(res.Source) > 0 {
		s.enc.Text("* OK [").Text(copyUID(res)).Text("] Moved").CRLF()
	}
	if err != nil {
		return s.copyFailed(ctx, to, err)
	}
	return nil
}

// copyFailed tells a target that is missing from a source that is gone.
func (s *session) copyFailed(ctx context.Context, to backend.MailboxName, err error) error {
	if mb, e := s.account.Mailbox(ctx, to); e == nil && !mb.NoSelect {
		return err
	}
	return tryCreate(err)
}

func copyUID(r store.CopyResult) string {
	return "COPYUID " + numString(uint64(r.UIDValidity)) + " " + line.FromUIDSet(r.Source).String() + " " +
		line.FromUIDSet(r.Dest).String()
}
