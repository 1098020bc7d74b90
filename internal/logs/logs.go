// Package logs writes a node's log: a level for each service, to standard
// error, files with retention and syslog, all of which a reload can change
// while loggers are in use.
package logs

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
)

// Options say what is logged where.
type Options struct {
	Level slog.Level
	// Levels are those of services: the value of the attribute "protocol", or
	// else of "part", of a logger.
	Levels  map[string]slog.Level
	Outputs []Output
}

// Output is one place where records go.
type Output struct {
	JSON     bool     // else key=value
	Services []string // empty: all
	// Exactly one of these is set.
	Writer io.Writer // stays the caller's
	File   *File
	Syslog *Syslog
}

// Log is where records go. Safe for concurrent use.
type Log struct {
	mu    sync.RWMutex // held while a record is written; for writing while outputs change
	state *state       // guarded by mu
	level atomic.Pointer[levels]
}

// levels is what decides without a lock.
type levels struct {
	all     slog.Level
	service map[string]slog.Level
}

func (l *levels) of(service string) slog.Level {
	if v, ok := l.service[service]; ok {
		return v
	}
	return l.all
}

// state is one set of outputs.
type state struct {
	outputs []*output
}

type output struct {
	base     slog.Handler
	services []string
	close    func() error
}

// New opens the outputs. Close ends them.
func New(o Options) (*Log, error) {
	l := &Log{}
	return l, l.Reload(o)
}

// Reload takes other options over; files are opened anew, so that what was
// moved away is let go. On error everything stays as it was.
func (l *Log) Reload(o Options) error {
	next := &state{}
	for i := range o.Outputs {
		out, err := open(&o.Outputs[i])
		if err != nil {
			return errors.Join(err, next.close())
		}
		next.outputs = append(next.outputs, out)
	}
	l.mu.Lock()
	old := l.state
	l.state = next
	l.level.Store(&levels{o.Level, o.Levels})
	l.mu.Unlock()
	if old != nil {
		return old.close()
	}
	return nil
}

// Close ends the outputs; what is logged later is lost.
func (l *Log) Close() error {
	l.mu.Lock()
	old := l.state
	l.state = &state{}
	l.mu.Unlock()
	return old.close()
}

func (s *state) close() error {
	var errs []error
	for _, o := range s.outputs {
		if o.close != nil {
			errs = append(errs, o.close())
		}
	}
	return errors.Join(errs...)
}

// most lets everything through: the Log decides.
const most = slog.Level(-100)

func open(o *Output) (*output, error) {
	out := &output{services: o.Services}
	w := o.Writer
	switch {
	case o.File != nil:
		f, err := openFile(o.File)
		if err != nil {
			return nil, err
		}
		w, out.close = f, f.Close
	case o.Syslog != nil:
		s, err := dialSyslog(o.Syslog)
		if err != nil {
			return nil, err
		}
		out.base, out.close = syslogHandler(s, o.JSON), s.Close
		return out, nil
	case w == nil:
		w = io.Discard
	}
	ho := &slog.HandlerOptions{Level: most}
	if out.base = slog.NewTextHandler(w, ho); o.JSON {
		out.base = slog.NewJSONHandler(w, ho)
	}
	return out, nil
}

// Logger is the root of a node's loggers.
func (l *Log) Logger() *slog.Logger { return slog.New(&handler{log: l}) }

// handler is one logger: what was added to its parent's, and to which service it
// belongs.
type handler struct {
	log     *Log
	service string
	grouped bool
	parent  *handler // nil: the root
	add     func(slog.Handler) slog.Handler
	built   atomic.Pointer[built]
}

// built are the handlers of one state's outputs with what was added.
type built struct {
	of   *state
	each []slog.Handler
}

// Enabled implements slog.Handler.
func (h *handler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.log.level.Load().of(h.service)
}

// Handle implements slog.Handler.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	h.log.mu.RLock()
	defer h.log.mu.RUnlock()
	var errs []error
	for i, to := range h.build(h.log.state) {
		if !h.log.state.outputs[i].takes(h.service) {
			continue
		}
		if err := to.Handle(ctx, r.Clone()); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (o *output) takes(service string) bool {
	return len(o.services) == 0 || slices.Contains(o.services, service)
}

// build makes the handlers once for each state.
func (h *handler) build(s *state) []slog.Handler {
	if b := h.built.Load(); b != nil && b.of == s {
		return b.each
	}
	each := make([]slog.Handler, len(s.outputs))
	for i, o := range s.outputs {
		if each[i] = o.base; h.parent != nil {
			each[i] = h.add(h.parent.build(s)[i])
		}
	}
	h.built.Store(&built{s, each})
	return each
}

// WithAttrs implements slog.Handler.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	n := h.with(func(to slog.Handler) slog.Handler { return to.WithAttrs(attrs) })
	for _, a := range attrs {
		if !h.grouped && (a.Key == "protocol" || a.Key == "part") {
			n.service = a.Value.String()
		}
	}
	return n
}

// WithGroup implements slog.Handler.
func (h *handler) WithGroup(name string) slog.Handler {
	n := h.with(func(to slog.Handler) slog.Handler { return to.WithGroup(name) })
	n.grouped = true
	return n
}

func (h *handler) with(add func(slog.Handler) slog.Handler) *handler {
	return &handler{log: h.log, service: h.service, grouped: h.grouped, parent: h, add: add}
}
