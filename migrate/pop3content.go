package migrate

import (
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
)

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
