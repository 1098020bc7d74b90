package target

import (
	"context"
	"sync"
	"time"

	"mailferry/backend/remote"
)

// surveyHolds is how long a survey that Begin made may be used: a little more
// than what the source takes to be surveyed.
const surveyHolds = 10 * time.Second

type importer struct {
	o Options

	mu    sync.Mutex
	begun *beginning // nil: Import starts from nothing; guarded by mu
	taken bool       // by an Import; guarded by mu
}

// beginning is an account that is made ready in the background.
type beginning struct {
	cancel context.CancelFunc
	done   chan struct{}
	i      *account // once done
	err    error    // once done
}

// Begin makes ready for Import in the background: it opens the maps, logs in to
// the target and surveys it, while its caller does the same at the source. What it
// meets, Import and Prepare tell. It ends with Import, with Rest, or with ctx, and
// does nothing once there was an Import.
func (f *importer) Begin(ctx context.Context, user string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.begun != nil || f.taken {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	b := &beginning{cancel: cancel, done: make(chan struct{})}
	f.begun = b
	go func() {
		defer close(b.done)
		if b.i, b.err = f.o.open(user); b.err == nil {
			b.i.surveyAhead(ctx)
		}
	}()
}

// Rest undoes Begin where no Import came of it.
func (f *importer) Rest() {
	if b := f.take(false); b != nil {
		b.cancel()
		if <-b.done; b.err == nil {
			_ = b.i.Close()
		}
	}
}

func (f *importer) take(forImport bool) *beginning {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := f.begun
	f.begun, f.taken = nil, f.taken || forImport
	return b
}

// opened is what Begin opened, or a new one.
func (f *importer) opened(ctx context.Context, user string) (*account, error) {
	b := f.take(true)
	if b == nil {
		return f.o.open(user)
	}
	defer b.cancel()
	select {
	case <-b.done:
	case <-ctx.Done():
		b.cancel()
		<-b.done
	}
	return b.i, b.err
}

// surveyAhead surveys the target. That it could not log in is told by the next who
// needs the connection: a second login could lock the user out.
func (i *account) surveyAhead(ctx context.Context) {
	i.mu.Lock()
	defer i.mu.Unlock()
	c, err := i.o.Dial(ctx)
	if err != nil {
		if ctx.Err() == nil {
			i.noLogin = err
		}
		return
	}
	i.client = c
	var list *remote.Account
	if list, err = c.Survey(ctx); err != nil {
		_ = c.Close()
		i.client = nil
		return
	}
	i.list, i.surveyed = list, time.Now()
}

// hasSurvey reports that Begin surveyed the target just before, and nothing was done
// there since; once. Callers hold mu.
func (i *account) hasSurvey() bool {
	at := i.surveyed
	i.surveyed = time.Time{}
	return !at.IsZero() && time.Since(at) < surveyHolds
}
