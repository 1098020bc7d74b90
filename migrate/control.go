package migrate

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"mailferry/backend"
)

// errExist is a batch directory that is there.
var errExist = fs.ErrExist

// Orders in the journal.
const (
	orderPause    = "pause"
	orderContinue = "continue"
	orderStop     = "stop"
)

// loadTime bounds the wait for Resume to read a batch that is on disk.
const loadTime = 10 * time.Second

// batch finds a batch; one that is on disk and not read yet, because the
// process has just started, is awaited.
func (e *Engine) batch(id BatchID) (*batch, error) {
	b := e.loaded(id)
	if b == nil && validID(id) {
		if _, err := os.Stat(filepath.Join(e.dir(id), journalName)); err == nil {
			e.awaitResume(e.ctx)
			b = e.loaded(id)
		}
	}
	if b == nil {
		return nil, backend.Errorf(backend.KindNotFound, "There is no such batch.", "batch %q", id)
	}
	return b, nil
}

// awaitResume waits until Resume has read the batches, as long as loadTime allows.
func (e *Engine) awaitResume(ctx context.Context) error {
	t := time.NewTimer(loadTime)
	defer t.Stop()
	select {
	case <-e.resumed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-e.ctx.Done():
		return errClosed
	case <-t.C:
		return backend.NewError(backend.KindUnavailable, "The batches of before are still being read.")
	}
}

// loadedAll waits for Resume when there are batches of before that it has not read.
func (e *Engine) loadedAll(ctx context.Context) error {
	select {
	case <-e.resumed: // what is not loaded now cannot be read
		return nil
	default:
	}
	for _, id := range e.before {
		if e.loaded(id) == nil {
			return e.awaitResume(ctx)
		}
	}
	return nil
}

func (e *Engine) loaded(id BatchID) *batch {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.batches[id]
}

// Batches lists all batches, the latest first, without their users. Those that
// cannot be read are missing.
func (e *Engine) Batches(ctx context.Context) ([]*BatchStatus, error) {
	if err := e.loadedAll(ctx); err != nil {
		return nil, err
	}
	e.mu.Lock()
	list := make([]*batch, 0, len(e.batches))
	for _, b := range e.batches {
		list = append(list, b)
	}
	e.mu.Unlock()
	slices.SortFunc(list, func(x, y *batch) int { return cmp.Compare(y.spec.ID, x.spec.ID) })
	out := make([]*BatchStatus, len(list))
	for i, b := range list {
		out[i] = b.summary()
	}
	return out, nil
}

// Status is where a batch stands. KindNotFound.
func (e *Engine) Status(id BatchID) (*BatchStatus, error) {
	b, err := e.batch(id)
	if err != nil {
		return nil, err
	}
	st, _ := b.snapshot()
	return st, nil
}

// Summary is Status without the users: it costs the same for any number of them.
func (e *Engine) Summary(id BatchID) (*BatchStatus, error) {
	b, err := e.batch(id)
	if err != nil {
		return nil, err
	}
	return b.summary(), nil
}

// Users gives a page of a batch's users in its order: from the index from on those
// that keep accepts (nil: all), at most limit. next is where the next page begins,
// -1 when there is none. KindNotFound.
func (e *Engine) Users(id BatchID, from, limit int, keep func(*UserStatus) bool) (users []UserStatus, next int, err error) {
	b, err := e.batch(id)
	if err != nil {
		return nil, -1, err
	}
	ordered := e.soaks.ordered(b.spec.ID) // before: who has no order any more is shown as it ended
	users, next = b.page(from, limit, keep)
	for i := range users {
		users[i].Ordered = ordered[users[i].User]
	}
	return users, next, nil
}

// watchInterval is how often figures are told that change by themselves.
const watchInterval = 250 * time.Millisecond

// Watch tells where a batch stands, now and as it changes, a few times a second
// at most; a slow reader misses what is overtaken. A status has only those users
// who are at work or changed since the one before, the first one also those who
// failed. The channel closes after the
// status in which the batch is finished, or when ctx ends.
func (e *Engine) Watch(ctx context.Context, id BatchID) (<-chan *BatchStatus, error) {
	b, err := e.batch(id)
	if err != nil {
		return nil, err
	}
	ch := make(chan *BatchStatus)
	go func() { // ends with ctx, with the batch, or with the engine, which ends batches
		defer close(ch)
		tick := time.NewTicker(watchInterval)
		defer tick.Stop()
		set, cancel := b.watch()
		defer cancel()
		for first := true; ; first = false {
			st, changed := b.changes(set, first)
			select {
			case ch <- st:
			case <-ctx.Done():
				return
			}
			if st.Finished {
				return
			}
			// The end is told at once, all else after a pause.
			for news, paused := false, true; paused || !news; {
				select {
				case <-tick.C:
					news, paused = news || !paused, false
				case <-changed:
					news = true
					var over bool
					if over, changed = b.over(); over {
						paused = false
					}
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return ch, nil
}

// Wait returns the last status of a batch when it is finished, or ctx's error.
func (e *Engine) Wait(ctx context.Context, id BatchID) (*BatchStatus, error) {
	b, err := e.batch(id)
	if err != nil {
		return nil, err
	}
	for {
		st, changed := b.snapshot()
		if st.Finished {
			return st, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return st, ctx.Err()
		}
	}
}

// Pause lets no user of the batch begin anything new: copies stop between two
// passes, and holds that run are finished. It is remembered over a restart.
func (e *Engine) Pause(id BatchID) error { return e.order(id, orderPause) }

// Continue goes on with a paused batch, and with one that ended before its users
// were done because its journal could not be written.
func (e *Engine) Continue(id BatchID) error {
	b, err := e.batch(id)
	if err != nil {
		return err
	}
	if b.brokenOff() {
		j, r, err := openJournal(e.dir(id))
		if err != nil {
			return err
		}
		b = newBatch(r.spec, j, e.log)
		b.restore(r)
		if err := e.relaunch(b); err != nil {
			return err
		}
		e.soaks.rebind(b)
	}
	return e.order(id, orderContinue)
}

// relaunch is launch for a batch whose users may be in another one by now.
func (e *Engine) relaunch(b *batch) error {
	var open []string
	for u, m := range b.moves {
		if !m.Done() {
			open = append(open, u)
		}
	}
	e.starts.Lock()
	defer e.starts.Unlock()
	if busy := e.busy(open); busy != "" {
		b.journal.close()
		return errBusy(busy)
	}
	return e.launch(b)
}

// Stop ends a batch for good: copies are cut off, holds that run are finished,
// users who are not flipped stay where they are. A finished batch whose passwords
// are kept for a retry or a cutover forgets them.
func (e *Engine) Stop(id BatchID) error {
	b, err := e.batch(id)
	if err != nil {
		return err
	}
	if b.active() || !b.summary().Passwords {
		return e.order(id, orderStop)
	}
	if err := b.journal.order(record{Order: orderStop, Time: time.Now().UTC()}); err != nil {
		return err
	}
	b.mu.Lock()
	b.stopped = true
	b.changed()
	b.mu.Unlock()
	e.sweepSecrets()
	return nil
}

func (e *Engine) order(id BatchID, order string) error {
	b, err := e.batch(id)
	if err != nil {
		return err
	}
	if !b.active() {
		return backend.Errorf(backend.KindConflict, "The batch is finished.", "batch %q", id)
	}
	if err := b.journal.order(record{Order: order, Time: time.Now().UTC()}); err != nil {
		return &journalError{err}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.paused, b.halt = order == orderPause, ""; order == orderContinue {
		b.queue.forgive()
	}
	if order == orderStop {
		b.stopped = true
		b.cancel(errStopped)
	}
	b.changed()
	return nil
}

// errStopped is why the moves of a stopped batch end.
var errStopped = errors.New("the batch was stopped")

// RetrySpec is a batch of those users whose move failed, under the rules of the
// batch in which it did. KindNotFound: none has.
func (e *Engine) RetrySpec(id BatchID) (BatchSpec, error) {
	b, err := e.batch(id)
	if err != nil {
		return BatchSpec{}, err
	}
	spec := b.spec.only(b.failed())
	if len(spec.Users) == 0 {
		return spec, backend.Errorf(backend.KindNotFound, "No move of this batch has failed.", "batch %q", id)
	}
	return spec, nil
}

// Moves reports whether a user is part of a batch that is not finished, among
// those that are read.
func (e *Engine) Moves(user string) bool { return e.busy([]string{user}) != "" }

// Certificate is the latest of a user, over all batches. KindNotFound.
func (e *Engine) Certificate(user string) (*Certificate, error) {
	c, _, err := e.latestCertificate(user)
	return c, err
}

// CertificateText is the same as it was written and signed, JSON.
func (e *Engine) CertificateText(user string) ([]byte, error) {
	_, dir, err := e.latestCertificate(user)
	if err != nil {
		return nil, err
	}
	_, text, err := readCertificateText(dir, user)
	return text, err
}

func (e *Engine) latestCertificate(user string) (latest *Certificate, in string, err error) {
	ids, err := batches(e.opt.Dir)
	if err != nil {
		return nil, "", err
	}
	for _, id := range ids {
		c, err := readCertificate(e.dir(id), user)
		if err == nil && (latest == nil || c.Written.After(latest.Written)) {
			latest, in = c, e.dir(id)
		}
	}
	if latest == nil {
		return nil, "", backend.Errorf(backend.KindNotFound, "There is no certificate of this user.", "user %q", user)
	}
	return latest, in, nil
}
