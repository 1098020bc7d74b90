package migrate

import (
	"context"
	"fmt"
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
