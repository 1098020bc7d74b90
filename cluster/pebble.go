package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"mailferry/cluster/engine"
)

// fault remembers the first disk fault (or bug) of a node and tells everybody
// who waits. After it nothing is acknowledged any more.
type fault struct {
	once sync.Once
	err  atomic.Pointer[error]
	c    chan struct{}
}

func newFault() *fault { return &fault{c: make(chan struct{})} }

// set records err unless there is one already.
func (f *fault) set(err error) {
	f.once.Do(func() {
		f.err.Store(&err)
		close(f.c)
	})
}

// get returns nil while all is well, else an error that is engine.ErrStopped.
func (f *fault) get() error {
	if p := f.err.Load(); p != nil {
		return fmt.Errorf("%w: %w", engine.ErrStopped, *p)
	}
	return nil
}

// pebbleLogger turns Pebble's fatal errors into a fault. Pebble expects Fatalf
// not to return; what that means depends on whose goroutine calls it.
type pebbleLogger struct {
	log   *slog.Logger
	fault *fault
}

func (l *pebbleLogger) Infof(string, ...any) {}

func (l *pebbleLogger) Errorf(format string, args ...any) {
	l.log.Warn("pebble: " + fmt.Sprintf(format, args...))
}

func (l *pebbleLogger) Fatalf(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	l.fault.set(err)
	if strings.HasPrefix(format, "pebble: fatal commit error") {
		return // our own goroutine, which looks at the fault before it believes in the commit
	}
	// A goroutine of ours recovers the panic at its root; one of Pebble's, which
	// nobody could recover, ends quietly, and the fault does the rest.
	if stack := debug.Stack(); bytes.Contains(stack, []byte("cluster.openPebble")) || bytes.Contains(stack, []byte("cluster.(*Node)")) {
		panic(err)
	}
	runtime.Goexit()
}

// openPebble opens a database. Faults in its background work end in f.
func openPebble(dir string, fs vfs.FS, cache *pebble.Cache, f *fault, log *slog.Logger, tune func(*pebble.Options)) (db *pebble.DB, err error) {
	logger := &pebbleLogger{log: log, fault: f}
	opts := &pebble.Options{
		FS:                 &failStopFS{fs, f},
		Cache:              cache,
		Logger:             logger,
		FormatMajorVersion: pebble.FormatValueSeparation,
		MaxOpenFiles:       1000,
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) {
				if !errors.Is(err, pebble.ErrCancelledCompaction) {
					f.set(fmt.Errorf("background work in %s: %w", dir, err))
				}
			},
			DataCorruption: func(info pebble.DataCorruptionInfo) {
				f.set(fmt.Errorf("corruption in %s: %s", dir, info))
			},
		},
	}
	tune(opts)
	defer func() {
		if p := recover(); p != nil {
			db, err = nil, fmt.Errorf("cluster: open %s: %v", dir, p)
		}
	}()
	db, err = pebble.Open(dir, opts)
	if err == nil {
		err = f.get() // if it is set, closing the database writes nothing
	}
	if err != nil {
		return db, fmt.Errorf("cluster: open %s: %w", dir, err)
	}
	return db, nil
}

// logCacheBytes is next to nothing: the log is read at a start and by slow voters.
// It has a cache of its own because Pebble takes memtables out of the cache, and
// those of the log would leave the state none.
const logCacheBytes = 1 << 20

// stateMemTable is the size of the state's memtable, which comes on top of the
// cache for blocks.
func stateMemTable(checkpointBytes int64) uint64 {
	return uint64(min(64<<20, max(1<<20, checkpointBytes)))
}

// tuneLog suits a log: written once, read hardly ever, deleted soon. A large
// memtable lets most entries die before they are flushed. While it is, a second
// one is filled: the two, and two of the state, are what CheckpointBytes says.
func tuneLog(checkpointBytes int64) func(*pebble.Options) {
	return func(o *pebble.Options) {
		o.MemTableSize = uint64(min(256<<20, max(1<<20, 2*checkpointBytes)))
		o.MemTableStopWritesThreshold = 4
		o.L0CompactionThreshold = 8
		o.L0StopWritesThreshold = 1000
		o.Levels[0].Compression = func() *sstable.CompressionProfile { return sstable.NoCompression }
		o.WALBytesPerSync = 0
	}
}

// tuneState suits the applied state. It has no write-ahead log of its own: the
// Raft log is one.
func tuneState(checkpointBytes int64) func(*pebble.Options) {
	return func(o *pebble.Options) {
		o.DisableWAL = true
		o.MemTableSize = stateMemTable(checkpointBytes)
		o.MemTableStopWritesThreshold = 4
		o.L0CompactionThreshold = 4
		o.L0StopWritesThreshold = 1000
		o.Levels[0].FilterPolicy = bloom.FilterPolicy(10)
	}
}
