package proxy

import (
	"errors"
	"io"
	"os"
)

// spoolMemory is how much of a message is held in memory; what is larger goes
// to a file that has no name.
const spoolMemory = 256 << 10

// spool holds one message's octets while it goes to several stores. Readers may
// be used at the same time; Close ends them all.
type spool struct {
	mem  []byte
	file *os.File
	size int64
}

// newSpool reads r to its end. dir is for the file; empty: os.TempDir.
func newSpool(r io.Reader, dir string) (*spool, error) {
	s := &spool{}
	var err error
	s.mem, err = io.ReadAll(io.LimitReader(r, spoolMemory+1))
	if err != nil {
		return nil, err
	}
	if s.size = int64(len(s.mem)); s.size <= spoolMemory {
		return s, nil
	}
	if s.file, err = os.CreateTemp(dir, "mailferry-lmtp-*"); err != nil {
		return nil, err
	}
	os.Remove(s.file.Name()) // nothing to clean up after a crash
	if _, err = s.file.Write(s.mem); err == nil {
		s.mem = nil
		var n int64
		n, err = io.Copy(s.file, r)
		s.size += n
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// open returns a reader of the whole message.
func (s *spool) open() io.Reader {
	if s.file != nil {
		return io.NewSectionReader(s.file, 0, s.size)
	}
	return io.NewSectionReader(memory(s.mem), 0, s.size)
}

// memory is an io.ReaderAt of octets.
type memory []byte

func (m memory) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(m)) {
		return 0, io.EOF
	}
	n := copy(p, m[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Close frees the file.
func (s *spool) Close() error {
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}
