package migrate

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// matcher finds the message of each unique id, the cheapest way first: by the
// patterns of the servers we know, by order and size, by header, by all octets.
type matcher struct {
	ctx  context.Context
	a    *account
	d    *maildrop
	b    *box
	c    *remote.POP3Client
	list *remote.Maildrop

	uids  []imap.UID // of the INBOX, ascending
	sizes []int64
	taken []bool
	found []imap.UID // per entry of list
	away  map[int]distant
	form  backend.UIDLFormat
	byUID bool
	cert  POP3Certificate
}

// distant is a message in another mailbox than INBOX.
type distant struct {
	box *box
	uid imap.UID
}

func newMatcher(ctx context.Context, a *account, b *box, c *remote.POP3Client, list *remote.Maildrop) (*matcher, error) {
	m := &matcher{ctx: ctx, a: a, d: a.pop3, b: b, c: c, list: list, away: make(map[int]distant)}
	for msg, err := range b.imp.Messages(ctx) {
		if err != nil {
			return nil, fmt.Errorf("list the target: %w", err)
		}
		m.uids, m.sizes = append(m.uids, msg.UID), append(m.sizes, msg.Size)
	}
	m.taken = make([]bool, len(m.uids))
	m.found = make([]imap.UID, list.Len())
	m.cert.Messages = list.Len()
	return m, nil
}

func (m *matcher) run() error {
	switch {
	case m.list.NoUIDL:
		m.cert.Left = "the old store has no unique ids"
		m.form, m.byUID = backend.UIDLCyrus, true
		return nil
	case m.closedForm():
		return nil
	}
	m.known()
	m.patterns()
	m.bySize()
	for _, sameSize := range []bool{true, false} {
		if err := m.byHeader(sameSize); err != nil {
			return err
		}
	}
	return m.elsewhere()
}

// take notes that entry i of the list is the message at position p.
func (m *matcher) take(i, p int, count *int) {
	m.found[i], m.taken[p] = m.uids[p], true
	*count++
}

// closedForm looks for a pattern that makes every id of the list of a UID in
// the INBOX. Messages that came or went since the copy make no difference.
func (m *matcher) closedForm() bool {
	if m.list.Len() == 0 {
		return false
	}
	for _, f := range backend.UIDLFormats() {
		if m.fits(f) {
			m.form, m.cert.ByForm = f, m.list.Len()
			return true
		}
	}
	return false
}

func (m *matcher) fits(f backend.UIDLFormat) bool {
	ascending, there := true, 0
	last := imap.UID(0)
	for i := range m.list.Len() {
		uid, ok := f.UID(m.b.validity, m.list.UIDL(i))
		if !ok {
			return false
		}
		p, has := slices.BinarySearch(m.uids, uid)
		if !has && uint32(uid) < m.b.next && !strings.Contains(string(f), "v") {
			return false // a bare number proves nothing
		}
		if has {
			there++
		}
		ascending, last = ascending && uid > last, uid
		m.found[i] = 0
		if has {
			m.found[i] = m.uids[p]
		}
	}
	// The INBOX as a whole, by UID: what comes next needs no look.
	m.byUID = ascending && there == len(m.uids)
	m.cert.Hidden = len(m.uids) - there
	return true
}

// known takes over what an earlier reading found.
func (m *matcher) known() {
	if m.d.ids == nil || m.d.at.validity != m.b.validity {
		return
	}
	byID := make(map[string][]imap.UID, m.d.ids.Len())
	for i, uid := range m.d.found {
		if uid != 0 {
			id := m.d.ids.UIDL(i)
			byID[id] = append(byID[id], uid)
		}
	}
	for i := range m.found {
		id := m.list.UIDL(i)
		uids := byID[id]
		if len(uids) == 0 {
			continue
		}
		byID[id] = uids[1:]
		if p, ok := slices.BinarySearch(m.uids, uids[0]); ok && !m.taken[p] {
			m.take(i, p, new(int))
		}
	}
	m.cert.ByForm, m.cert.BySize, m.cert.ByHeader, m.cert.ByBody = m.d.cert.ByForm, m.d.cert.BySize, m.d.cert.ByHeader, m.d.cert.ByBody
}

// patterns takes ids one by one whose pattern names the UIDVALIDITY: a store
// keeps those that came from another server in that one's form.
func (m *matcher) patterns() {
	for i := range m.found {
		if m.found[i] != 0 {
			continue
		}
		for _, f := range backend.UIDLFormats() {
			uid, ok := f.UID(m.b.validity, m.list.UIDL(i))
			if !ok || !strings.Contains(string(f), "v") {
				continue
			}
			if p, has := slices.BinarySearch(m.uids, uid); has && !m.taken[p] {
				m.take(i, p, &m.cert.ByForm)
				break
			}
		}
	}
}

// left gives what has no counterpart yet, on both sides.
func (m *matcher) left() (entries, messages []int) {
	for i, uid := range m.found {
		if uid == 0 {
			entries = append(entries, i)
		}
	}
	for p, t := range m.taken {
		if !t {
			messages = append(messages, p)
		}
	}
	return entries, messages
}

// bySize trusts equal order and size of the whole INBOX, but only for sizes that
// occur once: two messages of one size may have changed places.
func (m *matcher) bySize() {
	if m.list.Len() != len(m.uids) {
		return
	}
	times := make(map[int64]int, len(m.uids))
	for i, size := range m.sizes {
		if m.list.Size(i) == 0 || m.list.Size(i) != size {
			return
		}
		times[size]++
	}
	for i, size := range m.sizes {
		if times[size] == 1 && m.found[i] == 0 && !m.taken[i] {
			m.take(i, i, &m.cert.BySize)
		}
	}
}

// byHeader compares headers, TOP against what was copied; where several have
// one header, all their octets.
func (m *matcher) byHeader(sameSize bool) error {
	entries, messages := m.left()
	if len(entries) == 0 || len(messages) == 0 {
		return nil
	}
	if sameSize {
		entries, messages = m.equalSizes(entries, messages)
	}
	ours, err := m.ourHeaders(m.b, m.uids, messages)
	if err != nil {
		return err
	}
	theirs, err := m.theirHeaders(entries)
	if err != nil {
		return err
	}
	for _, sum := range sortedSums(theirs) {
		is, ps := theirs[sum], ours[sum]
		switch {
		case len(ps) == 0:
		case len(is) == 1 && len(ps) == 1:
			m.take(is[0], ps[0], &m.cert.ByHeader)
		default:
			if err := m.byBody(is, ps); err != nil {
				return err
			}
		}
	}
	return nil
}

// sortedSums makes the order of work that of the list.
func sortedSums(by map[[32]byte][]int) [][32]byte {
	return slices.SortedFunc(maps.Keys(by), func(x, y [32]byte) int { return by[x][0] - by[y][0] })
}

// equalSizes keeps what has a size that the other side has too.
func (m *matcher) equalSizes(entries, messages []int) (es, ms []int) {
	theirs, ours := make(map[int64]bool), make(map[int64]bool)
	for _, p := range messages {
		ours[m.sizes[p]] = true
	}
	for _, i := range entries {
		if ours[m.list.Size(i)] {
			es = append(es, i)
			theirs[m.list.Size(i)] = true
		}
	}
	for _, p := range messages {
		if theirs[m.sizes[p]] {
			ms = append(ms, p)
		}
	}
	return es, ms
}

// ourHeaders sums up the headers of copied messages.
func (m *matcher) ourHeaders(b *box, uids []imap.UID, positions []int) (map[[32]byte][]int, error) {
	by := make(map[[32]byte][]int, len(positions))
	open, ok := b.imp.(backend.BodyOpener)
	if !ok {
		return by, nil
	}
	for _, p := range positions {
		r, err := open.OpenBody(m.ctx, uids[p])
		if backend.IsKind(err, backend.KindNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("header of UID %d: %w", uids[p], err)
		}
		sum, err := headerSum(r)
		r.Close()
		if err != nil {
			return nil, fmt.Errorf("header of UID %d: %w", uids[p], err)
		}
		by[sum] = append(by[sum], p)
	}
	return by, nil
}

func (m *matcher) theirHeaders(entries []int) (map[[32]byte][]int, error) {
	by := make(map[[32]byte][]int, len(entries))
	numbers := make([]int, len(entries))
	for n, i := range entries {
		numbers[n] = m.list.Number(i)
	}
	var refused []int
	err := m.c.Top(m.ctx, numbers, func(n int, r io.Reader) error {
		if r == nil {
			refused = append(refused, entries[n])
			return nil
		}
		sum, err := headerSum(r)
		by[sum] = append(by[sum], entries[n])
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, i := range refused { // TOP is optional
		err := m.c.Retrieve(m.ctx, m.list.Number(i), func(r io.Reader) error {
			if r == nil {
				return nil
			}
			sum, err := headerSum(r)
			by[sum] = append(by[sum], i)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return by, nil
}

// byBody tells messages with one header apart by all their octets. Equal ones
// are taken in order.
func (m *matcher) byBody(entries, messages []int) error {
	open, ok := m.b.imp.(backend.BodyOpener)
	if !ok {
		return nil
	}
	ours := make(map[[32]byte][]int, len(messages))
	for _, p := range messages {
		r, err := open.OpenBody(m.ctx, m.uids[p])
		if backend.IsKind(err, backend.KindNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("UID %d: %w", m.uids[p], err)
		}
		sum, err := textSum(r)
		r.Close()
		if err != nil {
			return fmt.Errorf("UID %d: %w", m.uids[p], err)
		}
		ours[sum] = append(ours[sum], p)
	}
	for _, i := range entries {
		err := m.c.Retrieve(m.ctx, m.list.Number(i), func(r io.Reader) error {
			if r == nil {
				return nil
			}
			sum, err := textSum(r)
			if ps := ours[sum]; err == nil && len(ps) > 0 {
				m.take(i, ps[0], &m.cert.ByBody)
				ours[sum] = ps[1:]
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// elsewhere looks for what is left in the other mailboxes, by size and header:
// some stores show more than the INBOX by POP3.
func (m *matcher) elsewhere() error {
	entries, _ := m.left()
	if len(entries) == 0 {
		return nil
	}
	theirs, err := m.theirHeaders(entries)
	if err != nil {
		return err
	}
	sizes := make(map[int64]bool, len(entries))
	for _, i := range entries {
		sizes[m.list.Size(i)] = true
	}
	for _, name := range m.a.names() {
		b := m.a.boxes[name]
		if b == m.b || b.hollow || b.imp == nil {
			continue
		}
		var uids []imap.UID
		var positions []int
		for msg, err := range b.imp.Messages(m.ctx) {
			if err != nil {
				return fmt.Errorf("list the target: %w", err)
			}
			if sizes[msg.Size] {
				positions = append(positions, len(uids))
				uids = append(uids, msg.UID)
			}
		}
		ours, err := m.ourHeaders(b, uids, positions)
		if err != nil {
			return err
		}
		for sum, ps := range ours {
			if is := theirs[sum]; len(is) > 0 {
				m.away[is[0]] = distant{b, uids[ps[0]]}
				theirs[sum] = is[1:]
			}
		}
	}
	return nil
}

// file gives the target what was found, and keeps what later readings need.
func (m *matcher) file() error {
	d := m.d
	next := maildrop{dial: d.dial, mode: d.mode, force: d.force, named: d.named, read: true, byUID: m.byUID, open: make(map[string]bool)}
	m.cert.Form = m.form
	if m.form != "" && m.cert.Left == "" {
		o := backend.ImportOptions{Namespace: m.a.namespace, UIDLFormat: m.form}
		if _, err := m.a.importer.Import(m.ctx, m.a.user, o); err != nil {
			return err
		}
	}
	if m.form == "" {
		m.countOpen(next.open)
	}
	if err := m.fileList(&next); err != nil {
		return err
	}
	next.cert = m.cert
	*d = next
	return nil
}

// countOpen counts what could not be given to a message of the INBOX.
func (m *matcher) countOpen(open map[string]bool) {
	hidden := len(m.uids)
	for i := range m.found {
		id := m.list.UIDL(i)
		if m.found[i] != 0 && sayable(id) {
			hidden--
			continue
		}
		m.found[i] = 0
		open[id] = true
		if _, away := m.away[i]; away {
			m.cert.Elsewhere++
		} else {
			m.cert.Unmatched++
		}
	}
	m.cert.Hidden = hidden
}

// sayable ids can be told by POP3.
func sayable(id string) bool {
	return id != "" && !strings.ContainsFunc(id, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// fileList writes ids and places that no pattern makes. Places only grow, so
// that an expunge does not move all that follow.
func (m *matcher) fileList(next *maildrop) error {
	before := make(map[imap.UID]backend.ImportPOP3, len(m.d.found))
	for i, uid := range m.d.found {
		if uid != 0 && m.d.at.validity == m.b.validity {
			before[uid] = backend.ImportPOP3{UID: uid, UIDL: m.d.kept(i), Order: m.d.order[i]}
		}
	}
	all := len(before) == 0 // of an earlier process, perhaps
	want := make(map[imap.UID]backend.ImportPOP3, len(m.found))
	if m.form == "" || !m.byUID {
		next.ids, next.found, next.order = m.list, m.found, make([]uint32, len(m.found))
		next.cert.Form = m.form
		last := uint32(0)
		for i, uid := range m.found {
			if uid == 0 {
				continue
			}
			if last++; before[uid].Order > last {
				last = before[uid].Order
			}
			next.order[i] = last
			want[uid] = backend.ImportPOP3{UID: uid, UIDL: next.kept(i), Order: last}
		}
	}
	var ids []backend.ImportPOP3
	for _, uid := range m.uids {
		w := want[uid]
		w.UID = uid
		if old, ok := before[uid]; all || ok && old != w || !ok && w.Order != 0 {
			ids = append(ids, w)
		}
	}
	if err := setPOP3(m.ctx, m.b.imp, ids); err != nil {
		return err
	}
	for i, at := range m.away {
		if id := m.list.UIDL(i); sayable(id) {
			if err := setPOP3(m.ctx, at.box.imp, []backend.ImportPOP3{{UID: at.uid, UIDL: id, Order: uint32(i + 1)}}); err != nil {
				return err
			}
		}
	}
	return nil
}

// kept is the id that has to be kept with the message of entry i.
func (d *maildrop) kept(i int) string {
	if d.cert.Form != "" {
		return ""
	}
	return d.ids.UIDL(i)
}

func setPOP3(ctx context.Context, imp backend.MailboxImport, ids []backend.ImportPOP3) error {
	to, ok := imp.(backend.POP3Import)
	if !ok || len(ids) == 0 {
		return nil
	}
	if err := to.SetPOP3(ctx, ids); err != nil {
		return fmt.Errorf("set POP3 ids: %w", err)
	}
	return nil
}

// maxCompared bounds what of a header is compared.
const maxCompared = 256 << 10

// headerSum sums up a header as POP3 and IMAP servers agree on it: without the
// fields in which some keep state, without lines that some drop because they
// are none, without blanks at the ends of lines.
func headerSum(r io.Reader) (sum [32]byte, err error) {
	in := bufio.NewReaderSize(io.LimitReader(r, maxCompared), 4096)
	h := sha256.New()
	keep, start := false, true
	for {
		line, err := in.ReadSlice('\n')
		if err != nil && err != io.EOF && err != bufio.ErrBufferFull {
			return sum, err
		}
		whole := err != bufio.ErrBufferFull
		text := bytes.TrimRight(line, " \t\r\n")
		if start && whole && len(text) == 0 {
			break
		}
		if start && line[0] != ' ' && line[0] != '\t' {
			keep = compared(text)
		}
		if keep {
			h.Write(text)
			if whole {
				h.Write([]byte{'\n'})
			}
		}
		if start = whole; err == io.EOF {
			break
		}
	}
	return [32]byte(h.Sum(nil)), nil
}

// compared reports whether a line begins a field that both sides show alike.
func compared(line []byte) bool {
	name, _, ok := bytes.Cut(line, []byte{':'})
	name = bytes.TrimRight(name, " \t")
	if !ok || len(name) == 0 || bytes.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return false
	}
	return !slices.ContainsFunc(stateFields, func(f string) bool { return strings.EqualFold(f, string(name)) })
}

// stateFields are where servers keep flags and UIDs in mailboxes of one file.
var stateFields = []string{"Status", "X-Status", "X-Keywords", "X-UID", "X-IMAP", "X-IMAPbase", "X-UIDL", "Content-Length"}

// textSum sums up a message whatever ends its lines, and without the ends of
// lines behind it: POP3 ends the last line in any case.
func textSum(r io.Reader) (sum [32]byte, err error) {
	h, buf := sha256.New(), make([]byte, 32<<10)
	ends := 0 // of lines, not written yet
	for {
		n, err := r.Read(buf)
		text := slices.DeleteFunc(buf[:n], func(b byte) bool { return b == '\r' })
		for len(text) > 0 {
			line, rest, ended := bytes.Cut(text, []byte{'\n'})
			if len(line) > 0 {
				for ; ends > 0; ends-- {
					h.Write([]byte{'\n'})
				}
				h.Write(line)
			}
			if ended {
				ends++
			}
			text = rest
		}
		if err == io.EOF {
			return [32]byte(h.Sum(nil)), nil
		}
		if err != nil {
			return sum, err
		}
	}
}
