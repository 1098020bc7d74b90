package cluster

import (
	"encoding/binary"
	"errors"

	"mailferry/cluster/engine"
)

// An entry's data is one of these records. The first byte is the kind, then
// comes the proposal's id, by which the proposer recognises its own entry.
const (
	kindCommand  = 1 // a command for the Machine, with its bodies
	kindChunk    = 2 // a part of a large body, ahead of its command
	kindAbort    = 3 // a large body that gets no command
	kindTable    = 4 // an operation on the Table
	kindTruncate = 5 // all voters hold the log up to an index
	kindPlaced   = 6 // a command some of whose bodies are in segments already
)

// entryID tells proposals apart: origin is random for each start of a node,
// seq counts within it.
type entryID struct{ origin, seq uint64 }

const entryHeader = 1 + 16

// stageID names a large body while its chunks arrive.
type stageID = entryID

var errCorruptEntry = errors.New("cluster: corrupt log entry")

func appendHeader(dst []byte, kind byte, id entryID) []byte {
	dst = append(dst, kind)
	return appendID(dst, id)
}

func appendID(dst []byte, id entryID) []byte {
	dst = binary.BigEndian.AppendUint64(dst, id.origin)
	return binary.BigEndian.AppendUint64(dst, id.seq)
}

// parseHeader splits off kind and id. Empty data is Raft's own entry at the
// start of a term.
func parseHeader(data []byte) (kind byte, id entryID, rest []byte, err error) {
	if len(data) < entryHeader {
		return 0, id, nil, errCorruptEntry
	}
	return data[0], decodeID(data[1:]), data[entryHeader:], nil
}

func decodeID(b []byte) entryID {
	return entryID{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
}

// entryBody is a body as its command's entry tells of it. Either frames holds
// it whole, or chunks entries of stage went before, or it is in places.
type entryBody struct {
	size   int64
	digest [32]byte
	tag    uint64
	frames []byte
	stage  stageID
	chunks uint64
	places []extent // without the index of the entry
}

// appendCommand encodes a command of kindPlaced or, without places, kindCommand.
func appendCommand(dst []byte, placed bool, cmd []byte, bodies []*staged) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(cmd)))
	dst = append(dst, cmd...)
	dst = binary.AppendUvarint(dst, uint64(len(bodies)))
	for _, b := range bodies {
		dst = binary.AppendUvarint(dst, uint64(b.size))
		dst = append(dst, b.digest[:]...)
		dst = binary.BigEndian.AppendUint64(dst, b.tag)
		if placed {
			dst = appendPlaces(dst, b.places)
			if len(b.places) > 0 {
				continue
			}
		}
		dst = binary.AppendUvarint(dst, b.chunks)
		if b.chunks > 0 {
			dst = appendID(dst, b.stage)
			continue
		}
		dst = binary.AppendUvarint(dst, uint64(len(b.frames)))
		dst = append(dst, b.frames...)
	}
	return dst
}

func appendPlaces(dst []byte, places []place) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(places)))
	for i := range places {
		dst = binary.AppendUvarint(dst, uint64(places[i].segment))
		dst = binary.AppendUvarint(dst, uint64(places[i].length))
		dst = binary.AppendUvarint(dst, places[i].offset)
	}
	return dst
}

// places reads what appendPlaces wrote.
func (r *reader) places() []extent {
	n := r.uvarint()
	if n == 0 || n > uint64(len(r.data)) {
		r.bad = r.bad || n > 0
		return nil
	}
	places := make([]extent, n)
	for i := range places {
		places[i] = extent{segment: uint32(r.uvarint()), length: uint32(r.uvarint()), offset: r.uvarint()}
	}
	return places
}

// commandSize is an upper bound of what appendCommand adds.
func commandSize(cmd []byte, bodies []*staged) int {
	n := len(cmd) + 2*binary.MaxVarintLen64
	for _, b := range bodies {
		n += len(b.frames) + 32 + 24 + (4+3*len(b.places))*binary.MaxVarintLen64
	}
	return n
}

// parseCommand returns the command and appends its bodies to bodies. Both point
// into data. placed: its kind is kindPlaced.
func parseCommand(data []byte, placed bool, bodies []entryBody) ([]byte, []entryBody, error) {
	r := reader{data: data}
	cmd := r.bytes(r.uvarint())
	n := r.uvarint()
	for i := uint64(0); i < n && !r.bad; i++ {
		b := entryBody{size: int64(r.uvarint())}
		copy(b.digest[:], r.bytes(32))
		b.tag = r.uint64()
		if placed {
			b.places = r.places()
		}
		if len(b.places) == 0 {
			if b.chunks = r.uvarint(); b.chunks > 0 {
				b.stage = stageID{r.uint64(), r.uint64()}
			} else {
				b.frames = r.bytes(r.uvarint())
			}
		}
		bodies = append(bodies, b)
	}
	if r.bad || len(r.data) != 0 {
		return nil, nil, errCorruptEntry
	}
	return cmd, bodies, nil
}

func appendChunk(dst []byte, stage stageID, no uint64, frames []byte) []byte {
	dst = appendID(dst, stage)
	dst = binary.AppendUvarint(dst, no)
	return append(dst, frames...)
}

func parseChunk(data []byte) (stage stageID, no uint64, frames []byte, err error) {
	r := reader{data: data}
	stage = stageID{r.uint64(), r.uint64()}
	no = r.uvarint()
	if r.bad {
		return stage, 0, nil, errCorruptEntry
	}
	return stage, no, r.data, nil
}

// bodyID makes the id of the i-th body of the command at index. Indexes rise,
// so ids are never reused.
func bodyID(index uint64, i int) engine.BodyID {
	return engine.BodyID(index<<bodyBits | uint64(i))
}

const (
	bodyBits  = 16
	maxBodies = 1 << bodyBits
)

// reader takes values off the front of data; bad tells that something was missing.
type reader struct {
	data []byte
	bad  bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.data)
	if n <= 0 {
		r.bad, r.data = true, nil
		return 0
	}
	r.data = r.data[n:]
	return v
}

func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.data)) {
		r.bad, r.data = true, nil
		return nil
	}
	b := r.data[:n:n]
	r.data = r.data[n:]
	return b
}

func (r *reader) uint64() uint64 {
	if b := r.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}
