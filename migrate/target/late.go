package target

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// lateLog is a journal of what was carried from the target to the source: before
// a message is filed there, that is on disk, so that one whose outcome a crash
// left open is looked for and not filed twice.
type lateLog struct {
	f       *os.File
	entries map[lateKey]lateEntry
	resent  map[[8]byte]int
}

type lateKey struct {
	Raw      string   `json:"raw"` // at the target
	Validity uint32   `json:"validity"`
	UID      imap.UID `json:"uid"`
}

// lateEntry is a line.
type lateEntry struct {
	lateKey
	From imap.UID `json:"from,omitempty"` // the source gave this UID, or a later one
	As   imap.UID `json:"as,omitempty"`   // 0: not known yet
	// Resent is the identity of a message that was sent to the target twice: the
	// first may arrive late.
	Resent string `json:"resent,omitempty"`
}

func openLate(dir string) (*lateLog, error) {
	f, err := os.OpenFile(filepath.Join(dir, "late"), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	l := &lateLog{f: f, entries: make(map[lateKey]lateEntry), resent: make(map[[8]byte]int)}
	r := bufio.NewScanner(f)
	r.Buffer(nil, 1<<20)
	for r.Scan() {
		var e lateEntry
		if json.Unmarshal(r.Bytes(), &e) != nil {
			continue // torn by a crash: nothing was done yet
		}
		l.learn(e)
	}
	return l, r.Err()
}

func (l *lateLog) learn(e lateEntry) {
	if id, err := hex.DecodeString(e.Resent); err == nil && len(id) == 8 {
		l.resent[[8]byte(id)]++
		return
	}
	l.entries[e.lateKey] = e
}

// write is durable when it returns. It begins with a line's end, for a torn line
// before it.
func (l *lateLog) write(e lateEntry) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if _, err := l.f.Write(append(append([]byte{'\n'}, b...), '\n')); err != nil {
		return err
	}
	l.learn(e)
	return l.f.Sync()
}

// carryAll files the strangers of a mailbox at the source; callers hold i.mu.
func (b *mailbox) carryAll(ctx context.Context, source *remote.Client) (late []LateMail, err error) {
	for _, s := range b.strangers {
		as, err := b.carry(ctx, s, source)
		if err != nil {
			return late, fmt.Errorf("late mail, UID %d: %w", s.uid, err)
		}
		if as != 0 {
			late = append(late, LateMail{Mailbox: b.name, UID: s.uid, As: as})
		}
	}
	b.strangers = nil
	return late, nil
}

// carry brings one message to the source, and the target into line with it. as
// is 0 when it was none of others, or had been carried before.
func (b *mailbox) carry(ctx context.Context, s listed, source *remote.Client) (as imap.UID, err error) {
	log := b.i.late
	key := lateKey{b.raw, b.m.header().DstValidity, s.uid}
	e, known := log.entries[key]
	if known && e.As != 0 {
		return 0, b.carried(ctx, s, e.As, digest{})
	}
	msg := newBody(ctx, b.i.o.Dir)
	defer msg.Discard()
	one := &oneBody{uid: s.uid, to: msg}
	if err := b.selected(ctx, func(c *remote.Client) error { return c.FetchBodies(ctx, one, remote.Window{}) }); err != nil {
		return 0, err
	}
	if !one.got {
		return 0, nil // gone by now; the next look tells
	}
	if _, err := msg.Finish(); err != nil {
		return 0, err
	}
	if ours := b.ours(msg.sum); ours {
		return 0, b.expunge(ctx, imap.UIDSetNum(s.uid))
	}
	if known {
		if as, err = b.find(ctx, source, e.From, s, msg); err != nil {
			return 0, err
		}
	}
	if as == 0 {
		if as, err = b.deliver(ctx, source, key, s, msg); err != nil {
			return 0, err
		}
	}
	if err := log.write(lateEntry{lateKey: key, As: as}); err != nil {
		return 0, err
	}
	b.i.o.Log.Warn("mail came late to the old store: carried over", "mailbox", b.raw, "uid", s.uid, "as", as)
	return as, b.carried(ctx, s, as, msg.sum)
}

// ours reports a filler that a crash left, or a message that a broken connection
// filed after it had been sent again.
func (b *mailbox) ours(sum digest) bool {
	if equalID(sum, b.i.filler().sum()) {
		return true
	}
	if b.i.late.resent[sum.id()] > 0 {
		b.i.late.resent[sum.id()]--
		return true
	}
	return false
}

// sourceName is the mailbox's name at the source, whose names are those of the
// target.
func (b *mailbox) sourceName() string { return remote.EncodeName(b.i.source.Show(b.name)) }

// deliver files a message at the source.
func (b *mailbox) deliver(ctx context.Context, source *remote.Client, key lateKey, s listed, msg *body) (imap.UID, error) {
	raw := b.sourceName()
	sel, err := source.Examine(ctx, raw, remote.SelectOptions{})
	if backend.IsKind(err, backend.KindNotFound) {
		var errs []error
		if errs, err = source.CreateMailboxes(ctx, []remote.NewMailbox{{Raw: raw}}); err == nil {
			err = errors.Join(errs...)
		}
		if err == nil {
			sel, err = source.Examine(ctx, raw, remote.SelectOptions{})
		}
	}
	if err != nil {
		return 0, fmt.Errorf("new store: %w", err)
	}
	if err := b.i.late.write(lateEntry{lateKey: key, From: imap.UID(max(sel.UIDNext, 1))}); err != nil {
		return 0, err
	}
	app, err := source.Appender(ctx, remote.AppendWindow{})
	if err != nil {
		return 0, fmt.Errorf("new store: %w", err)
	}
	a, err := app.Send(raw, []remote.AppendMessage{{Flags: s.flags, Date: s.internal, Size: msg.size, NUL: msg.nul, Body: msg}})
	if e := app.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = a.Wait()
	}
	if err == nil && len(a.UIDs) != 1 {
		err = errors.New("no APPENDUID")
	}
	if err != nil {
		return 0, fmt.Errorf("new store: %w", err)
	}
	return a.UIDs[0], nil
}

// find looks for a message that may have been filed at the source before a
// crash: of this content and date, and under a UID that was free then.
func (b *mailbox) find(ctx context.Context, source *remote.Client, from imap.UID, s listed, msg *body) (imap.UID, error) {
	sel, err := source.Examine(ctx, b.sourceName(), remote.SelectOptions{})
	if backend.IsKind(err, backend.KindNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("new store: %w", err)
	}
	if sel.Exists == 0 {
		return 0, nil
	}
	taken := make(map[imap.UID]bool)
	for _, e := range b.i.late.entries {
		if e.Raw == b.raw && e.As != 0 {
			taken[e.As] = true
		}
	}
	var alike []imap.UID
	if _, err := source.FetchMeta(ctx, remote.FetchMeta{UIDs: fmt.Sprintf("%d:*", from), Items: remote.FetchAll}, func(m *remote.Meta) error {
		if m.UID >= from && !taken[m.UID] && m.Size == msg.size && m.Date.Unix() == s.date {
			alike = append(alike, m.UID)
		}
		return nil
	}); err != nil {
		return 0, fmt.Errorf("new store: %w", err)
	}
	if len(alike) == 0 {
		return 0, nil
	}
	read, err := contents(ctx, source, alike)
	if err != nil {
		return 0, fmt.Errorf("new store: %w", err)
	}
	for _, uid := range alike {
		if equalID(read[uid].digest, msg.sum) {
			return uid, nil
		}
	}
	return 0, nil
}

// carried brings the target into line: the source's UID counts. Callers hold i.mu.
func (b *mailbox) carried(ctx context.Context, s listed, as imap.UID, sum digest) error {
	if as != s.uid {
		return b.expunge(ctx, imap.UIDSetNum(s.uid)) // it comes again as the source's message
	}
	rec := record{src: uint32(as), dst: uint32(s.uid), size: uint32(min(s.size, 1<<32-1)), digest: sum}
	return b.m.file([]record{rec}, [][]imap.Flag{s.flags})
}
