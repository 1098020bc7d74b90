package target

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
)

// refusedBatch handles a NO to a batch: what concerns the mailbox ends it, else
// the messages that are at fault are found by halves.
func (b *mailbox) refusedBatch(ctx context.Context, msgs []backend.ImportMessage, cause error) error {
	b.i.mu.Lock()
	defer b.i.mu.Unlock()
	if err := b.i.quiesce(); err != nil {
		return err
	}
	if backend.IsKind(cause, backend.KindNotFound) {
		return b.vanished(cause)
	}
	if err := b.resolve(ctx); err != nil { // a NO is a claim
		return err
	}
	return b.halves(ctx, msgs, cause)
}

// halves sends messages again; callers hold i.mu, and nothing is on the way.
func (b *mailbox) halves(ctx context.Context, msgs []backend.ImportMessage, cause error) error {
	msgs, err := b.take(ctx, msgs)
	if err != nil || len(msgs) == 0 {
		return err
	}
	switch backend.KindOf(cause) {
	case backend.KindOverQuota:
		return backend.Errorf(backend.KindOverQuota, "The user is over quota at the target.", "mailbox %q: %w", b.raw, cause)
	case backend.KindTemporary, backend.KindUnavailable, backend.KindPermission:
		return cause
	case backend.KindNotFound:
		return b.vanished(cause)
	}
	if len(msgs) == 1 {
		return b.alone(ctx, msgs[0], cause)
	}
	for _, half := range [][]backend.ImportMessage{msgs[:len(msgs)/2], msgs[len(msgs)/2:]} {
		if err := b.again(ctx, half, nil); err != nil {
			return err
		}
	}
	return nil
}

// vanished is a mailbox that somebody deleted meanwhile: the next Prepare makes it
// again. Callers hold i.mu.
func (b *mailbox) vanished(cause error) error {
	b.checked, b.sel, b.i.list = false, nil, nil
	return backend.Errorf(backend.KindTemporary, "A mailbox of the target is gone.", "mailbox %q: %w", b.raw, cause)
}

// again sends messages and waits; what is refused is halved once more. plain
// changes how a single one is sent. Callers hold i.mu.
func (b *mailbox) again(ctx context.Context, msgs []backend.ImportMessage, plain func(*backend.ImportMessage)) error {
	sent := slices.Clone(msgs)
	if plain != nil {
		plain(&sent[0])
	}
	s, err := b.send(ctx, sent)
	if err != nil {
		return err
	}
	if err := b.i.quiesce(); err != nil {
		return err
	}
	var refused error
	for k, a := range s.appends {
		switch err := a.Wait(); {
		case err == nil && len(a.UIDs) != len(s.part(k)):
			if err := b.settled(ctx, s.part(k)); err != nil {
				return err
			}
		case err != nil && !refusal(err):
			return err
		case err != nil:
			refused = err
		}
	}
	if refused == nil {
		return nil
	}
	if err := b.resolve(ctx); err != nil {
		return err
	}
	if plain != nil {
		return refused
	}
	return b.halves(ctx, msgs, refused)
}

// alone finds out what of a message the target refuses: its keywords, or itself.
func (b *mailbox) alone(ctx context.Context, m backend.ImportMessage, cause error) error {
	var plain, left []imap.Flag
	for _, f := range m.Flags {
		if slices.ContainsFunc(systemFlags, func(s imap.Flag) bool { return strings.EqualFold(string(s), string(f)) }) {
			plain = append(plain, f)
		} else {
			left = append(left, f)
		}
	}
	if len(left) > 0 && backend.KindOf(cause) != backend.KindTooLarge {
		err := b.again(ctx, []backend.ImportMessage{m}, func(m *backend.ImportMessage) { m.Flags = plain })
		if err == nil {
			b.i.note(backend.ImportNote{Mailbox: b.name, UID: m.UID, What: fmt.Sprintf("the target refused the keywords %v: left out", left)})
			return b.m.setFlags(m.UID, m.Flags)
		}
		if !refusal(err) {
			return err
		}
		cause = err
	}
	return b.refuse(m, cause.Error())
}

// refuse keeps a message that the target will not take in a quarantine file.
func (b *mailbox) refuse(m backend.ImportMessage, why string) error {
	dir := filepath.Join(b.i.o.Dir, "quarantine")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(dir, fmt.Sprintf("%06d-%d.eml", b.file, m.UID))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = m.Body.(*body).WriteTo(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	why = fmt.Sprintf("the target refused it: %s (kept in %s)", why, path)
	b.i.o.Log.Warn("message refused", "mailbox", b.raw, "uid", m.UID, "why", why)
	b.state.Lock()
	defer b.state.Unlock()
	if b.refused == nil {
		b.refused = make(map[imap.UID]string)
	}
	b.refused[m.UID] = why
	return nil
}
