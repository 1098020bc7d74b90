package directory

import (
	"encoding/binary"
	"errors"
	"hash/maphash"
	"iter"
	"slices"
	"strings"

	"github.com/go-ldap/ldap/v3"
)

// entryID is an entry's entryUUID or objectGUID, which outlives a rename.
type entryID [16]byte

// table holds entries as packed strings, found by id and by the values of the
// attributes that names are compared with. Not safe for concurrent use.
type entryTable struct {
	names []string // attributes that are indexed, lower case
	seed  maphash.Seed
	rows  map[entryID]string
	// first has the first entry of a value, more has all others: of ambiguous
	// names, and of hashes that collide.
	first map[uint64]entryID
	more  map[uint64][]entryID
}

func newEntryTable(names []string) *entryTable {
	return &entryTable{names: names, seed: maphash.MakeSeed(), rows: map[entryID]string{},
		first: map[uint64]entryID{}, more: map[uint64][]entryID{}}
}

func (t *entryTable) hash(attr, value string) uint64 {
	var h maphash.Hash
	h.SetSeed(t.seed)
	h.WriteString(attr)
	h.WriteByte(0)
	h.WriteString(value)
	return h.Sum64()
}

// keys are the hashes of an entry's names, each once.
func (t *entryTable) keys(in *ldap.Entry) []uint64 {
	var keys []uint64
	for _, attr := range t.names {
		for _, v := range in.GetEqualFoldAttributeValues(attr) {
			if k := t.hash(attr, fold(v)); !slices.Contains(keys, k) {
				keys = append(keys, k)
			}
		}
	}
	return keys
}

// put adds or replaces an entry. changed is false when it was there as it is.
func (t *entryTable) put(id entryID, in *ldap.Entry) (changed bool) {
	row := packEntry(in)
	old, had := t.rows[id]
	if had && old == row {
		return false
	}
	t.unindex(id)
	t.rows[id] = row
	for _, k := range t.keys(in) {
		if _, taken := t.first[k]; taken {
			t.more[k] = append(t.more[k], id)
		} else {
			t.first[k] = id
		}
	}
	return true
}

func (t *entryTable) delete(id entryID) {
	t.unindex(id)
	delete(t.rows, id)
}

func (t *entryTable) unindex(id entryID) {
	in := t.get(id)
	if in == nil {
		return
	}
	for _, k := range t.keys(in) {
		rest := slices.DeleteFunc(t.more[k], func(have entryID) bool { return have == id })
		if t.first[k] == id {
			if len(rest) == 0 {
				delete(t.first, k)
			} else {
				t.first[k], rest = rest[0], rest[1:]
			}
		}
		if len(rest) == 0 {
			delete(t.more, k)
		} else {
			t.more[k] = rest
		}
	}
}

// get returns an entry, nil when it is not there.
func (t *entryTable) get(id entryID) *ldap.Entry {
	row, ok := t.rows[id]
	if !ok {
		return nil
	}
	in, err := unpackEntry(row)
	if err != nil {
		return nil // packed by us: cannot be
	}
	return in
}

// find returns the ids and entries that pass a test.
func (t *entryTable) find(f test) (ids []entryID, found []*ldap.Entry) {
	f.leaves(func(attr, value string) {
		k := t.hash(attr, value)
		first, ok := t.first[k]
		if !ok {
			return
		}
		for _, id := range append([]entryID{first}, t.more[k]...) {
			if slices.Contains(ids, id) {
				continue
			}
			if in := t.get(id); in != nil && f.fits(in) {
				ids, found = append(ids, id), append(found, in)
			}
		}
	})
	return ids, found
}

// all yields every entry, in no order.
func (t *entryTable) all() iter.Seq2[entryID, string] {
	return func(yield func(entryID, string) bool) {
		for id, row := range t.rows {
			if !yield(id, row) {
				return
			}
		}
	}
}

// packEntry writes the DN and the attributes that have values, each string
// behind its length.
func packEntry(in *ldap.Entry) string {
	size := len(in.DN) + 4
	for _, a := range in.Attributes {
		size += len(a.Name) + 4
		for _, v := range a.Values {
			size += len(v) + 2
		}
	}
	b := make([]byte, 0, size)
	b = appendString(b, in.DN)
	for _, a := range in.Attributes {
		if len(a.Values) == 0 {
			continue
		}
		b = appendString(b, a.Name)
		b = binary.AppendUvarint(b, uint64(len(a.Values)))
		for _, v := range a.Values {
			b = appendString(b, v)
		}
	}
	return string(b)
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

var errPacked = errors.New("damaged entry")

// unpackEntry is the reverse; it accepts any input.
func unpackEntry(row string) (*ldap.Entry, error) {
	dn, rest, err := cutString(row)
	if err != nil {
		return nil, err
	}
	in := &ldap.Entry{DN: dn}
	for rest != "" {
		a := &ldap.EntryAttribute{}
		if a.Name, rest, err = cutString(rest); err != nil {
			return nil, err
		}
		n, used := uvarint(rest)
		if used <= 0 || n > uint64(len(rest)) {
			return nil, errPacked
		}
		rest = rest[used:]
		for range n {
			var v string
			if v, rest, err = cutString(rest); err != nil {
				return nil, err
			}
			a.Values = append(a.Values, v)
		}
		in.Attributes = append(in.Attributes, a)
	}
	return in, nil
}

func cutString(s string) (head, rest string, err error) {
	n, used := uvarint(s)
	if used <= 0 || n > uint64(len(s)-used) {
		return "", "", errPacked
	}
	return s[used : used+int(n)], s[used+int(n):], nil
}

func uvarint(s string) (uint64, int) {
	return binary.Uvarint([]byte(s[:min(len(s), binary.MaxVarintLen64)]))
}

// trim keeps the attributes that are wanted, under one spelling of their names,
// so that rows compare equal whichever way they came.
func trim(in *ldap.Entry, wanted []string) *ldap.Entry {
	out := &ldap.Entry{DN: in.DN}
	for _, name := range wanted {
		if values := in.GetEqualFoldAttributeValues(name); len(values) > 0 {
			values = slices.Clone(values)
			if len(values) > 1 {
				slices.Sort(values) // servers promise no order
			}
			out.Attributes = append(out.Attributes, &ldap.EntryAttribute{Name: strings.ToLower(name), Values: values})
		}
	}
	return out
}
