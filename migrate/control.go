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
			t := time.NewTimer(loadTime)
			defer t.Stop()
			select {
			case <-e.resumed:
			case <-e.ctx.Done():
			case <-t.C:
			}
			b = e.loaded(id)
		}
	}
	if b == nil {
		return nil, backend.Errorf(backend.KindNotFound, "There is no such batch.", "batch %q", id)
	}
	return b, nil
}

func (e *Engine) loaded(id BatchID) *batch {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.batches[id]
}

// Batches lists all batches, the latest first.
func (e *Engine) Batches() []*BatchStatus {
	e.mu.Lock()
	list := make([]*batch, 0, len(e.batches))
	for _, b := range e.batches {
		list = append(list, b)
	}
	e.mu.Unlock()
	slices.SortFunc(list, func(x, y *batch) int { return cmp.Compare(y.spec.ID, x.spec.ID) })
	out := make([]*BatchStatus, len(list))
	for i, b := range list {
		out[i], _ = b.snapshot()
	}
	return out
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

// watchInterval is how often figures are told that change by themselves.
const watchInterval = 250 * time.Millisecond

// Watch tells where a batch stands, now and as it changes, a few times a second
// at most; a slow reader misses what is overtaken. The channel closes after the
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
		for {
			st, changed := b.snapshot()
			select {
			case ch <- st:
			case <-ctx.Done():
				return
			}
			if st.Finished {
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			select {
			case <-changed:
			case <-tick.C:
			case <-ctx.Done():
				return
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

// Continue goes on with a paused batch.
func (e *Engine) Continue(id BatchID) error { return e.order(id, orderContinue) }

// Stop ends a batch for good: copies are cut off, holds that run are finished,
// users who are not flipped stay where they are.
func (e *Engine) Stop(id BatchID) error { return e.order(id, orderStop) }

func (e *Engine) order(id BatchID, order string) error {
	b, err := e.batch(id)
	if err != nil {
		return err
	}
	if !b.active() {
		return backend.Errorf(backend.KindConflict, "The batch is finished.", "batch %q", id)
	}
	if err := b.journal.order(order, time.Now().UTC()); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.paused = order == orderPause
	if order == orderStop {
		b.stopped = true
		b.cancel(errStopped)
	}
	b.changed()
	return nil
}

// errStopped is why the moves of a stopped batch end.
var errStopped = errors.New("the batch was stopped")

// Failed lists the users of a batch whose move failed, for another batch.
func (e *Engine) Failed(id BatchID) ([]string, error) {
	b, err := e.batch(id)
	if err != nil {
		return nil, err
	}
	return b.failed(), nil
}

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
	return os.ReadFile(filepath.Join(dir, certificateName(user)))
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
