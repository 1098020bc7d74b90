package imapd

import (
	"context"
	"math"
	"slices"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/internal/line"
)

// resumption is the state of a client's session; see the package comment.
type resumption struct {
	none        bool // authenticated only
	name        backend.MailboxName
	uidValidity uint32
	modseq      uint64
	view, saved line.NumSet
	enabled     []string
	readOnly    bool
}

func errCannotResume(text string) error { return no("CANNOT", text) }

// runResume continues a client's session. It writes no untagged data.
func runResume(ctx context.Context, s *session, c *call) error {
	r, err := s.parseResume(c)
	if err != nil {
		return err
	}
	s.unselect()
	s.condstore, s.qresync = false, false
	for _, f := range r.enabled {
		if !s.enable(f) {
			return errCannotResume("Feature " + f + " is not known here")
		}
	}
	if r.none {
		return okay("RESUMED", "Go on")
	}
	mb, err := s.account.Mailbox(ctx, r.name)
	if backend.IsKind(err, backend.KindNotFound) || err == nil && mb.NoSelect {
		return errCannotResume("No such mailbox")
	}
	if err != nil {
		return err
	}
	v := s.openView(mb, r.readOnly)
	if err := s.resumeView(ctx, v, r); err != nil {
		s.closeView(v)
		return err
	}
	s.view, s.state, s.saved = v, stateSelected, r.saved
	return okay("RESUMED", "Go on")
}

func (s *session) parseResume(c *call) (r resumption, err error) {
	d := c.d
	if !d.ExpectSP() {
		return r, d.Err()
	}
	var nameErr error
	if r.none = d.Word("NIL"); !r.none {
		nameErr = s.expectMailbox(c, &r.name)
	}
	given := map[string]bool{}
	if d.SP() {
		d.ExpectList(func() bool { return s.parseResumeParam(d, &r, given) })
	}
	switch {
	case d.Err() != nil:
	case r.none && (given["UIDVALIDITY"] || given["MODSEQ"] || given["VIEW"] || given["SAVED"] || given["READONLY"]):
		d.Fail("Only ENABLED goes with NIL")
	case !r.none && (!given["UIDVALIDITY"] || !given["MODSEQ"]):
		d.Fail("UIDVALIDITY and MODSEQ expected")
	}
	if !d.ExpectEnd() {
		return r, d.Err()
	}
	return r, nameErr
}

func (s *session) parseResumeParam(d *line.Decoder, r *resumption, given map[string]bool) bool {
	var w string
	if !d.Keyword(&w) || given[w] {
		return d.Fail("Unknown parameter")
	}
	given[w] = true
	if w == "READONLY" {
		r.readOnly = true
		return true
	}
	if !d.ExpectSP() {
		return false
	}
	switch w {
	case "UIDVALIDITY":
		return d.ExpectNumber(&r.uidValidity)
	case "MODSEQ":
		return d.ExpectNumber64(&r.modseq)
	case "VIEW":
		return s.expectUIDs(d, &r.view)
	case "SAVED":
		return s.expectUIDs(d, &r.saved)
	case "ENABLED":
		return d.ExpectList(func() bool {
			var f string
			ok := d.Keyword(&f)
			r.enabled = append(r.enabled, f)
			return ok
		})
	}
	return d.Fail("Unknown parameter")
}

// expectUIDs reads a set of UIDs that may be too large for a line.
func (s *session) expectUIDs(d *line.Decoder, set *line.NumSet) bool {
	if d.NumSet(set) {
		return !slices.ContainsFunc(*set, func(r line.Range) bool { return r.Start == 0 || r.Stop == 0 }) || d.Fail("\"*\" is no UID")
	}
	var text string
	if d.Err() != nil || !d.BigString(&text, s.server.o.Limits.ViewSize) {
		return d.Fail("UIDs expected")
	}
	if text == "" {
		return true
	}
	out, ok := line.AppendNumSet(nil, []byte(text))
	if !ok || slices.ContainsFunc(out, func(r line.Range) bool { return r.Start == 0 || r.Stop == 0 }) {
		return d.Fail("Invalid UIDs")
	}
	*set = out
	return true
}

// resumeView fills the view with what the client knows. Messages that it knows
// and the mailbox has no more are gone without having been told.
func (s *session) resumeView(ctx context.Context, v *view, r resumption) error {
	snap, err := s.account.Snapshot(ctx, v.mailbox)
	if err != nil {
		return err
	}
	defer snap.Close()
	mb := snap.Mailbox()
	known := r.view.Resolve(math.MaxUint32)
	switch {
	case mb.UIDValidity != r.uidValidity:
		return errCannotResume("UIDVALIDITY differs")
	case len(known) > 0 && known[len(known)-1].Stop >= uint32(mb.UIDNext):
		return errCannotResume("A UID was never given out")
	case r.modseq > mb.HighestModSeq:
		return errCannotResume("MODSEQ was never reached")
	}
	here, err := snap.UIDs()
	if err != nil {
		return err
	}
	if v.uids, err = expand(known, here, v.gone); err != nil {
		return err
	}
	v.modseq, v.flags = r.modseq, mb.Flags
	if r.modseq == 0 {
		v.modseq = mb.HighestModSeq
	}
	v.newcomers = missingFrom(v.uids, here)
	v.wake()
	return nil
}

// maxView bounds the view of one session: 16 MB of memory, more messages than
// servers let a mailbox have.
const maxView = 4 << 20

// expand lists the UIDs of a set, and puts those that are not here into gone.
func expand(set line.NumSet, here []imap.UID, gone map[imap.UID]struct{}) ([]imap.UID, error) {
	if set.Count() > maxView {
		return nil, errCannotResume("The view is too large")
	}
	uids := make([]imap.UID, 0, set.Count())
	for _, r := range set {
		for uid := uint64(r.Start); uid <= uint64(r.Stop); uid++ {
			uids = append(uids, imap.UID(uid))
		}
	}
	i := 0
	for _, uid := range uids {
		for i < len(here) && here[i] < uid {
			i++
		}
		if i == len(here) || here[i] != uid {
			gone[uid] = struct{}{}
		}
	}
	return uids, nil
}

// missingFrom lists the messages that are here and not in the view: all that is
// new to the client, also what came with a modseq that it has seen.
func missingFrom(view, here []imap.UID) []imap.UID {
	var out []imap.UID
	i := 0
	for _, uid := range here {
		for i < len(view) && view[i] < uid {
			i++
		}
		if i == len(view) || view[i] != uid {
			out = append(out, uid)
		}
	}
	return out
}
