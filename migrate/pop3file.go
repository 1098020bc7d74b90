package migrate

import (
	"context"
	"fmt"
	"strings"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
)

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
