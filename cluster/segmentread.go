package cluster

import "github.com/cockroachdb/pebble/v2/vfs"

// maxReading is how many segment files stay open for reading while nobody
// reads from them.
const maxReading = 64

// readFile is a segment file that is open for reading. Several readers share
// it.
type readFile struct {
	id   uint32
	file vfs.File

	// Guarded by segments.mu.
	readers int
	stale   bool // no longer in the table: the last reader closes it
}

// acquire opens a segment for reading, or shares it; release gives it back.
// What was acquired stays readable when the segment is removed.
func (s *segments) acquire(id uint32) (*readFile, error) {
	s.mu.Lock()
	if f := s.reading[id]; f != nil {
		f.readers++
		s.mu.Unlock()
		return f, nil
	}
	s.mu.Unlock()
	file, err := s.fs.Open(s.path(id))
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.reading[id]; f != nil { // another was faster
		_ = file.Close() // only read from
		f.readers++
		return f, nil
	}
	f := &readFile{id: id, file: file, readers: 1}
	if _, closed := s.onDisk[id]; !closed && !s.open[id] { // removed meanwhile
		f.stale = true
		return f, nil
	}
	s.makeRoom()
	s.reading[id] = f
	return f, nil
}

// release gives f back; nil is allowed.
func (s *segments) release(f *readFile) {
	if f == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f.readers--
	if f.stale && f.readers == 0 {
		_ = f.file.Close() // only read from
	}
}

// makeRoom closes an idle file when there are too many. The caller holds mu.
func (s *segments) makeRoom() {
	if len(s.reading) < maxReading {
		return
	}
	for _, f := range s.reading {
		if f.readers == 0 {
			s.forget(f)
			return
		}
	}
}

// forget takes f, which may be nil, out of the table. The caller holds mu.
func (s *segments) forget(f *readFile) {
	if f == nil || f.stale {
		return
	}
	delete(s.reading, f.id)
	f.stale = true
	if f.readers == 0 {
		_ = f.file.Close() // only read from
	}
}

// closeReading ends reading when the node closes; a reader that is under way
// keeps its file until it is released.
func (s *segments) closeReading() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.reading {
		s.forget(f)
	}
}
