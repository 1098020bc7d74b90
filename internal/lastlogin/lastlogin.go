// Package lastlogin remembers when users last logged in: the latest login of each, in
// memory and in a small file. It is for orders of precedence, not for accounting:
// a crash loses the logins of the last minutes.
package lastlogin

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// MaxNames is how many names are remembered; beyond, those of the oldest logins are
	// forgotten. Each takes some 40 octets of memory and 12 on the disk.
	MaxNames = 1 << 20
	// saveEvery is how often the file is written when anybody has logged in.
	saveEvery = 5 * time.Minute

	magic     = "mailferry last logins 1\n"
	entrySize = 8 + 4
)

// Record has the latest logins. Safe for concurrent use.
type Record struct {
	path string
	max  int // read-only

	mu    sync.Mutex
	times map[uint64]uint32 // minutes of Unix time by the hash of a name; guarded by mu
	dirty bool              // guarded by mu

	saving sync.Mutex // one Save at a time
}

// Open reads the record at path. One that is not there is empty; one that is damaged
// is empty, too, and told by the error beside it: it can be used.
func Open(path string) (*Record, error) {
	r := &Record{path: path, max: MaxNames, times: map[uint64]uint32{}}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = r.parse(text)
	}
	if err != nil {
		clear(r.times)
		err = fmt.Errorf("the record of last logins begins anew: %w", err)
	}
	return r, err
}

func (r *Record) parse(text []byte) error {
	body := len(text) - crc32.Size
	switch {
	case body < len(magic) || string(text[:len(magic)]) != magic || (body-len(magic))%entrySize != 0:
		return fmt.Errorf("%s is no such record", r.path)
	case crc32.ChecksumIEEE(text[:body]) != binary.BigEndian.Uint32(text[body:]):
		return fmt.Errorf("%s is damaged", r.path)
	}
	for b := text[len(magic):body]; len(b) > 0; b = b[entrySize:] {
		r.times[binary.BigEndian.Uint64(b)] = binary.BigEndian.Uint32(b[8:])
	}
	return nil
}

// Seen notes that somebody logged in who is known by these names. It is quick, and
// never waits for the disk.
func (r *Record) Seen(now time.Time, names ...string) {
	minute := uint32(now.Unix() / 60)
	for n, name := range names {
		if slices.Contains(names[:n], name) {
			continue
		}
		h := hash(name)
		r.mu.Lock()
		if r.times[h] < minute {
			if _, ok := r.times[h]; !ok && len(r.times) >= r.max {
				r.forget()
			}
			r.times[h], r.dirty = minute, true
		}
		r.mu.Unlock()
	}
}

// forget drops the oldest eighth; callers hold mu.
func (r *Record) forget() {
	all := make([]uint32, 0, len(r.times))
	for _, minute := range r.times {
		all = append(all, minute)
	}
	slices.Sort(all)
	drop := max(1, len(all)/8)
	last := all[drop-1]
	for h, minute := range r.times {
		if drop > 0 && minute <= last {
			delete(r.times, h)
			drop--
		}
	}
}

// At is when a name last logged in, to the minute; zero: it is not known.
func (r *Record) At(name string) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if minute := r.times[hash(name)]; minute > 0 {
		return time.Unix(int64(minute)*60, 0).UTC()
	}
	return time.Time{}
}

// hash is FNV-1a with a last mix, of the name in small letters: who is taken for
// somebody else is but out of order.
func hash(name string) uint64 {
	name = strings.ToLower(name)
	h := uint64(14695981039346656037)
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	h ^= h >> 32
	return h
}

// Keep saves the record now and then, when anybody has logged in, and when ctx
// ends; failures are told, and tried again later.
func (r *Record) Keep(ctx context.Context, failed func(error)) error {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
		if err := r.Save(); err != nil {
			failed(err)
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// Save writes the file anew, when anything changed. A crash leaves the old one or
// the new one.
func (r *Record) Save() error {
	r.saving.Lock()
	defer r.saving.Unlock()
	r.mu.Lock()
	if !r.dirty {
		r.mu.Unlock()
		return nil
	}
	text := make([]byte, 0, len(magic)+len(r.times)*entrySize+crc32.Size)
	text = append(text, magic...)
	for h, minute := range r.times {
		text = binary.BigEndian.AppendUint64(text, h)
		text = binary.BigEndian.AppendUint32(text, minute)
	}
	r.dirty = false
	r.mu.Unlock()
	text = binary.BigEndian.AppendUint32(text, crc32.ChecksumIEEE(text))
	err := replace(r.path, text)
	if err != nil {
		r.mu.Lock()
		r.dirty = true
		r.mu.Unlock()
		err = fmt.Errorf("the record of last logins is not saved: %w", err)
	}
	return err
}

func replace(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}
