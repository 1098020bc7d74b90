package config

import (
	"reflect"
	"slices"
	"strings"
)

// field is one documented key of a struct.
type field struct {
	key      string
	doc      string
	def      string
	hasDef   bool
	required bool
	index    int
	typ      reflect.Type
}

type fieldSet []field

// fieldsOf lists the keys of a struct in their order.
func fieldsOf(t reflect.Type) fieldSet {
	var fs fieldSet
	for i := range t.NumField() {
		f := t.Field(i)
		def, has := f.Tag.Lookup("default")
		fs = append(fs, field{key: f.Tag.Get("mapstructure"), doc: f.Tag.Get("doc"), def: def, hasDef: has,
			required: f.Tag.Get("required") == "true", index: i, typ: f.Type})
	}
	return fs
}

// lookup finds the type of a key; a secret can be written in three ways.
func (fs fieldSet) lookup(key string) (reflect.Type, bool) {
	for _, f := range fs {
		if f.key == key {
			return f.typ, true
		}
	}
	if _, _, ok := fs.secretSource(key); ok {
		return reflect.TypeFor[string](), true
	}
	return nil, false
}

// secretSource recognises key_file and key_env of a secret.
func (fs fieldSet) secretSource(key string) (secret, from string, ok bool) {
	for _, f := range fs {
		if f.typ != secretType {
			continue
		}
		switch key {
		case f.key + "_file":
			return f.key, "file", true
		case f.key + "_env":
			return f.key, "env", true
		}
	}
	return "", "", false
}

func (fs fieldSet) names() []string {
	var names []string
	for _, f := range fs {
		names = append(names, f.key)
		if f.typ == secretType {
			names = append(names, f.key+"_file", f.key+"_env")
		}
	}
	return names
}

// nearest is the name that differs least from s, empty when none is close.
func nearest(s string, names []string) string {
	best, bestDistance := "", 3
	for _, n := range names {
		if d := distance(s, n); d < bestDistance {
			best, bestDistance = n, d
		}
	}
	if best == "" {
		if i := slices.IndexFunc(names, func(n string) bool { return len(s) > 3 && strings.HasPrefix(n, s) }); i >= 0 {
			return names[i]
		}
	}
	return best
}

// distance is the number of single-letter edits between two words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(row[j+1]+1, row[j]+1, diagonal+cost)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
