package directory

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// replicaMagic begins a replica's file: a line, a header in JSON on a line,
// then id and row of each entry, then a CRC-32C of all before it.
const replicaMagic = "mailferry route replica 1\n"

// replicaHeader is what stands before the entries.
type replicaHeader struct {
	Directory string    `json:"directory"`
	Source    string    `json:"source"`   // what the entries are: servers, base, filter, attributes
	Complete  time.Time `json:"complete"` // when all of it was read
	Contact   time.Time `json:"contact"`  // when it was last known to be true
	Feed      string    `json:"feed"`
	Server    string    `json:"server"`           // whose cookie it is
	Cookie    []byte    `json:"cookie,omitempty"` // where to go on
	Domain    string    `json:"domain,omitempty"`
	Realm     string    `json:"realm,omitempty"`
	Entries   int       `json:"entries"`
}

// errOtherSource: the file was made for other settings.
var errOtherSource = errors.New("the replica on disk was made with other settings")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// writeReplica replaces the file atomically and durably.
func writeReplica(path string, h replicaHeader, rows map[entryID]string) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(path + ".new")
		}
	}()
	sum := crc32.New(castagnoli)
	buf := bufio.NewWriterSize(f, 1<<16)
	w := io.MultiWriter(buf, sum)
	h.Entries = len(rows)
	head, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if _, err = fmt.Fprintf(w, "%s%s\n", replicaMagic, head); err != nil {
		return err
	}
	var b []byte
	for id, row := range rows {
		b = appendString(append(b[:0], id[:]...), row)
		if _, err = w.Write(b); err != nil {
			return err
		}
	}
	if err = binary.Write(buf, binary.BigEndian, sum.Sum32()); err == nil {
		err = buf.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// readReplica calls fn for each entry of a file that is whole and of this
// source; it reads at most limit entries.
func readReplica(path, source string, limit int, fn func(id entryID, row string)) (h replicaHeader, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return h, err
	}
	body, ok := strings.CutPrefix(string(data), replicaMagic)
	if !ok || len(data) < 4 {
		return h, fmt.Errorf("%s: not a replica", path)
	}
	end := len(data) - 4
	if crc32.Checksum(data[:end], castagnoli) != binary.BigEndian.Uint32(data[end:]) {
		return h, fmt.Errorf("%s: damaged", path)
	}
	head, rest, _ := strings.Cut(body[:len(body)-4], "\n")
	if err := json.Unmarshal([]byte(head), &h); err != nil {
		return h, fmt.Errorf("%s: %w", path, err)
	}
	if h.Source != source {
		return h, errOtherSource
	}
	for n := 0; rest != ""; n++ {
		var id entryID
		if n >= limit || len(rest) < len(id) {
			return h, fmt.Errorf("%s: more than %d entries, or damaged", path, limit)
		}
		copy(id[:], rest)
		var row string
		if row, rest, err = cutString(rest[len(id):]); err != nil {
			return h, fmt.Errorf("%s: %w", path, err)
		}
		fn(id, strings.Clone(row))
	}
	return h, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// source identifies what a replica holds: with other settings it would hold
// something else.
func (d *LDAP) source() string {
	return strings.Join(append([]string{strings.Join(d.o.Servers, " "), d.o.Base, d.o.ListFilter}, d.replicated()...), "\n")
}

// replicated are the attributes that a replica keeps.
func (d *LDAP) replicated() []string {
	out := d.attributes()
	for _, name := range d.form.tested() {
		if !slices.ContainsFunc(out, func(have string) bool { return strings.EqualFold(have, name) }) {
			out = append(out, name)
		}
	}
	return out
}
