package cluster

import (
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/errors/oserror"

	"mailferry/cluster/engine"
)

// bodyReader reads the frames of a body one after the other.
type bodyReader struct {
	segs  *segments
	rec   *bodyRecord
	next  int // index of the extent after the current one
	file  *readFile
	at    int64 // in file
	end   int64
	frame []byte
	plain []byte // decoded octets that were not read yet
	buf   []byte
	err   error
}

// openBody opens the body and its first segment file, so that a removal after
// that does no harm.
func (g *group) openBody(id engine.BodyID) (engine.BodyReader, error) {
	for attempt := 0; ; attempt++ {
		v, err := getCopy(g.node.state, appendBodyKey(nil, g.id, id))
		if err != nil {
			return nil, err
		}
		if v == nil {
			return nil, fmt.Errorf("%w: body %d of shard %d", engine.ErrNotFound, id, g.id)
		}
		rec, err := decodeBodyRecord(v)
		if err != nil {
			return nil, err
		}
		r := &bodyReader{segs: g.node.segs, rec: rec}
		if len(rec.extents) == 0 {
			return r, nil
		}
		if err = r.openExtent(); err == nil {
			return r, nil
		}
		// The file may just have been removed: then the body was released or moved.
		if !oserror.IsNotExist(err) || attempt == 3 {
			return nil, err
		}
	}
}

// Size implements engine.BodyReader.
func (r *bodyReader) Size() int64 { return r.rec.size }

func (r *bodyReader) openExtent() error {
	e := r.rec.extents[r.next]
	r.next++
	r.at, r.end = int64(e.offset), int64(e.offset)+int64(e.length)
	if r.file != nil && r.file.id == e.segment {
		return nil
	}
	f, err := r.segs.acquire(e.segment)
	if err != nil {
		return fmt.Errorf("cluster: body segment: %w", err)
	}
	r.segs.release(r.file)
	r.file = f
	return nil
}

// Read implements io.Reader.
func (r *bodyReader) Read(p []byte) (int, error) {
	for len(r.plain) == 0 && r.err == nil {
		r.err = r.nextFrame()
	}
	if len(r.plain) == 0 {
		return 0, r.err
	}
	n := copy(p, r.plain)
	r.plain = r.plain[n:]
	return n, nil
}

func (r *bodyReader) nextFrame() error {
	if r.at == r.end {
		if r.next == len(r.rec.extents) {
			return io.EOF
		}
		if err := r.openExtent(); err != nil {
			return err
		}
	}
	frame, err := r.readFrame()
	if err != nil {
		return fmt.Errorf("cluster: segment %d at %d: %w", r.file.id, r.at, err)
	}
	r.at += int64(len(frame))
	_, original, raw, _ := parseFrameHeader(frame)
	if raw {
		r.plain = frame[frameHeader:]
		return nil
	}
	r.plain, err = decoder().DecodeAll(frame[frameHeader:], r.buf[:0])
	if err != nil || len(r.plain) != original {
		r.plain = nil
		return fmt.Errorf("%w: segment %d at %d", errBadFrame, r.file.id, r.at)
	}
	r.buf = r.plain
	return nil
}

// readFrame returns the frame at r.at, verified; valid until the next call.
func (r *bodyReader) readFrame() ([]byte, error) {
	if r.end-r.at < frameHeader {
		return nil, errBadFrame
	}
	// One read usually brings header and payload: small bodies are one frame.
	want := int(min(r.end-r.at, frameHeader+blockSize))
	if cap(r.frame) < want {
		r.frame = make([]byte, want)
	}
	frame := r.frame[:want]
	if _, err := r.file.file.ReadAt(frame, r.at); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	length, _, _, err := parseFrameHeader(frame)
	if err != nil {
		return nil, err
	}
	if need := frameHeader + length; need > want {
		if int64(need) > r.end-r.at {
			return nil, errBadFrame
		}
		r.frame = make([]byte, need)
		frame = r.frame
		if _, err := r.file.file.ReadAt(frame, r.at); err != nil {
			return nil, err
		}
	}
	frame = frame[:frameHeader+length]
	return frame, checkFrame(frame, r.rec.tag)
}

// Close implements io.Closer.
func (r *bodyReader) Close() error {
	r.err, r.plain = errors.New("cluster: body reader is closed"), nil
	r.segs.release(r.file)
	r.file = nil
	return nil
}
