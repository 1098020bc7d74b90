package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A body is kept as frames. The proposer makes them, the log carries them, apply
// copies them into a segment file:
//
//	crc32c (4)  over all that follows
//	length (4)  of the payload; the top bit tells that it is not compressed
//	original (4) octets the payload stands for
//	tag (8)     of the body, so that a frame of another body is noticed
//	payload     one zstd frame, or the octets themselves
const (
	frameHeader = 20
	frameRaw    = 1 << 31
)

var (
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
	errBadFrame = errors.New("cluster: damaged body frame")
)

// appendFrame appends the frame of block, compressed when that helps.
func appendFrame(dst, block []byte, tag uint64) []byte {
	start := len(dst)
	dst = append(dst, make([]byte, frameHeader)...)
	length := uint32(0)
	if len(block) >= 64 {
		dst = encoder().EncodeAll(block, dst)
		length = uint32(len(dst) - start - frameHeader)
	}
	if length == 0 || int(length) > len(block)-len(block)/16 {
		dst = append(dst[:start+frameHeader], block...)
		length = uint32(len(block)) | frameRaw
	}
	h := dst[start:]
	binary.BigEndian.PutUint32(h[4:], length)
	binary.BigEndian.PutUint32(h[8:], uint32(len(block)))
	binary.BigEndian.PutUint64(h[12:], tag)
	binary.BigEndian.PutUint32(h, crc32.Checksum(h[4:], castagnoli))
	return dst
}

// parseFrameHeader returns the payload's length in the file and originally.
func parseFrameHeader(h []byte) (length, original int, raw bool, err error) {
	l, o := binary.BigEndian.Uint32(h[4:]), binary.BigEndian.Uint32(h[8:])
	raw = l&frameRaw != 0
	l &^= frameRaw
	if o > blockSize || l > 2*blockSize || raw && l != o {
		return 0, 0, false, errBadFrame
	}
	return int(l), int(o), raw, nil
}

// checkFrame verifies a whole frame, header included.
func checkFrame(frame []byte, tag uint64) error {
	if crc32.Checksum(frame[4:], castagnoli) != binary.BigEndian.Uint32(frame) || binary.BigEndian.Uint64(frame[12:]) != tag {
		return errBadFrame
	}
	return nil
}

// checkFrames verifies a run of frames.
func checkFrames(data []byte, tag uint64) error {
	for len(data) > 0 {
		if len(data) < frameHeader {
			return errBadFrame
		}
		n, _, _, err := parseFrameHeader(data)
		if err != nil || len(data) < frameHeader+n {
			return errBadFrame
		}
		if err := checkFrame(data[:frameHeader+n], tag); err != nil {
			return err
		}
		data = data[frameHeader+n:]
	}
	return nil
}

// extent is a run of whole frames in a segment. index is the log entry that
// brought them.
type extent struct {
	segment uint32
	length  uint32
	offset  uint64
	index   uint64
}

// segments are the body files of a node. Each apply worker has an open one of
// its own, which only it writes.
type segments struct {
	dir string
	fs  vfs.FS

	next atomic.Uint32 // number of the newest segment

	mu       sync.Mutex
	live     map[uint32]int64 // bytes of bodies that are referred to, as applied
	open     map[uint32]bool  // written by a worker
	unsynced []*segmentFile   // closed to writing, not synced yet
	onDisk   map[uint32]int64 // files that are not open, and their size
	reading  map[uint32]*readFile
	pins     map[uint32]int // bodies in a segment whose command is not applied yet
}

type segmentFile struct {
	id   uint32
	file vfs.File
	size int64
}

const segmentSuffix = ".seg"

func (s *segments) path(id uint32) string {
	return s.fs.PathJoin(s.dir, fmt.Sprintf("%08d%s", id, segmentSuffix))
}

// openSegments finds the files there are. New bodies never go into an old file,
// whose end may be torn.
func openSegments(dir string, fs vfs.FS) (*segments, error) {
	if err := mkdirSynced(fs, dir); err != nil {
		return nil, err
	}
	s := &segments{dir: dir, fs: fs, live: map[uint32]int64{}, open: map[uint32]bool{}, onDisk: map[uint32]int64{},
		reading: map[uint32]*readFile{}, pins: map[uint32]int{}}
	names, err := fs.List(dir)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	for _, name := range names {
		id, err := strconv.ParseUint(strings.TrimSuffix(name, segmentSuffix), 10, 32)
		if err != nil || !strings.HasSuffix(name, segmentSuffix) {
			continue
		}
		info, err := fs.Stat(fs.PathJoin(dir, name))
		if err != nil {
			return nil, fmt.Errorf("cluster: %w", err)
		}
		s.onDisk[uint32(id)] = info.Size()
		s.next.Store(max(s.next.Load(), uint32(id)))
	}
	return s, nil
}

// mkdirSynced makes dir and sees to it that it survives a power cut.
func mkdirSynced(fs vfs.FS, dir string) error {
	if err := fs.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	return syncDir(fs, fs.PathDir(dir))
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// create makes a new segment file whose name survives a power cut, so that a
// number is never given twice.
func (s *segments) create() (*segmentFile, error) {
	id := s.next.Add(1)
	f, err := s.fs.Create(s.path(id), vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	if err := syncDir(s.fs, s.dir); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[id] = true
	return &segmentFile{id: id, file: f}, nil
}

// seal hands a full segment over to the checkpointer.
func (s *segments) seal(f *segmentFile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unsynced = append(s.unsynced, f)
}

// addLive changes the live bytes of segments after the change is applied.
func (s *segments) addLive(deltas map[uint32]int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, d := range deltas {
		s.live[id] += d
	}
}

// dead lists the closed segments without live bytes. Those of them that were
// dead before a flush of the state began may be removed after it.
func (s *segments) dead() []uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []uint32
	for id := range s.onDisk {
		if s.live[id] <= 0 && s.pins[id] == 0 {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// remove deletes segment files.
func (s *segments) remove(ids []uint32) error {
	for _, id := range ids {
		if err := s.fs.Remove(s.path(id)); err != nil {
			return fmt.Errorf("cluster: %w", err)
		}
		s.mu.Lock()
		delete(s.onDisk, id)
		delete(s.live, id)
		s.forget(s.reading[id])
		s.mu.Unlock()
	}
	return nil
}

// syncSealed syncs and closes the segments that were sealed.
func (s *segments) syncSealed() error {
	s.mu.Lock()
	files := s.unsynced
	s.unsynced = nil
	s.mu.Unlock()
	for _, f := range files {
		if err := errors.Join(f.file.Sync(), f.file.Close()); err != nil {
			return fmt.Errorf("cluster: segment %d: %w", f.id, err)
		}
		s.mu.Lock()
		delete(s.open, f.id)
		s.onDisk[f.id] = f.size
		s.mu.Unlock()
	}
	return nil
}

// segmentWriter is the open segment of one apply worker.
type segmentWriter struct {
	segs  *segments
	limit int64
	buf   []byte // frames that are not in the file yet; owned by the worker

	mu  sync.Mutex // guards cur against the checkpointer
	cur *segmentFile
}

// add puts frames at the end of the segment; they are in the file after flush.
func (w *segmentWriter) add(frames []byte, index uint64) (extent, error) {
	if w.cur == nil {
		f, err := w.segs.create()
		if err != nil {
			return extent{}, err
		}
		w.mu.Lock()
		w.cur = f
		w.mu.Unlock()
	}
	at := w.cur.size + int64(len(w.buf))
	w.buf = append(w.buf, frames...)
	return extent{segment: w.cur.id, length: uint32(len(frames)), offset: uint64(at), index: index}, nil
}

// flush writes what was added; readers find it from then on.
func (w *segmentWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	n, err := w.cur.file.Write(w.buf)
	if err != nil || n != len(w.buf) {
		return fmt.Errorf("cluster: segment %d: wrote %d of %d: %w", w.cur.id, n, len(w.buf), err)
	}
	w.cur.size += int64(n)
	w.buf = w.buf[:0]
	if cap(w.buf) > 4<<20 {
		w.buf = nil
	}
	return nil
}

// roll closes a full segment. Only after the commit of what refers to it, or
// the checkpointer would take it for dead.
func (w *segmentWriter) roll() {
	if w.cur != nil && w.cur.size >= w.limit {
		w.close()
	}
}

// close gives the open segment to the checkpointer.
func (w *segmentWriter) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cur != nil {
		w.segs.seal(w.cur)
		w.cur = nil
	}
}

// sync makes durable what was flushed so far.
func (w *segmentWriter) sync() error {
	w.mu.Lock()
	cur := w.cur
	w.mu.Unlock()
	if cur == nil {
		return nil
	}
	// Nobody but the caller, the checkpointer, closes files.
	if err := cur.file.SyncData(); err != nil {
		return fmt.Errorf("cluster: segment %d: %w", cur.id, err)
	}
	return nil
}
