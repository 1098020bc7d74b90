package message

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// params reads *(";" attribute "=" value), leaves out what is broken, and joins
// the continuations of RFC 2231 section 3, which come last.
func (w *words) params() []Param {
	var plain []Param
	var pieces []piece
	index := 0 // name* has that of the piece before it, as in Dovecot
	for w.left() == more {
		name, value, ok := w.param()
		if !ok {
			w.i++
			continue
		}
		if base, rest, cont := strings.Cut(name, "*"); cont {
			pc := piece{name: base, index: index, value: value, extended: rest == ""}
			if rest == "" || pc.parseIndex(rest) {
				index = pc.index
				pieces = append(pieces, pc)
				continue
			}
		}
		plain = append(plain, Param{name, value})
	}
	return append(plain, joinPieces(pieces)...)
}

func (w *words) param() (name, value string, ok bool) {
	if w.peek() != ';' {
		return "", "", false
	}
	w.i++
	if w.skip() != more {
		return "", "", false
	}
	name, r := w.mimeToken()
	if r != more || w.peek() != '=' {
		return "", "", false
	}
	w.i++
	if w.skip() == broken {
		return "", "", false
	}
	switch w.peek() {
	case '"':
		value, r = w.quoted()
	case '=': // broken senders: name==?utf-8?b?...?=
		start := w.i
		for w.i < len(w.s) && strings.IndexByte("; \t\r\n", w.s[w.i]) < 0 {
			w.i++
		}
		value, r = w.s[start:w.i], w.skip()
	default:
		value, r = w.mimeToken()
	}
	return name, value, r != broken && name != ""
}

// piece is name*index or name*index*.
type piece struct {
	name     string
	index    int
	value    string
	extended bool
}

// parseIndex parses what follows the first "*".
func (pc *piece) parseIndex(s string) bool {
	s, pc.extended = strings.CutSuffix(s, "*")
	n, err := strconv.ParseUint(s, 10, 31)
	pc.index = int(n)
	return err == nil
}

// joinPieces joins pieces of the same name that count from 0 without a gap.
// When one of them is extended, so is the result (name*). Others stay as they
// are.
func joinPieces(pieces []piece) []Param {
	slices.SortStableFunc(pieces, func(a, b piece) int {
		return cmp.Or(cmp.Compare(strings.ToLower(a.name), strings.ToLower(b.name)), cmp.Compare(a.index, b.index))
	})
	var out []Param
	for i := 0; i < len(pieces); {
		j, extended, gap := i, false, false
		for ; j < len(pieces) && equalFold(pieces[j].name, pieces[i].name); j++ {
			extended = extended || pieces[j].extended
			gap = gap || pieces[j].index != j-i
		}
		if gap {
			for _, pc := range pieces[i:j] {
				out = append(out, Param{pc.String(), pc.value})
			}
		} else {
			out = append(out, joined(pieces[i:j], extended))
		}
		i = j
	}
	return out
}

func (pc piece) String() string {
	s := pc.name + "*" + strconv.Itoa(pc.index)
	if pc.extended {
		s += "*"
	}
	return s
}

func joined(pieces []piece, extended bool) Param {
	name := pieces[0].name
	var b strings.Builder
	if extended {
		name += "*"
		if !pieces[0].extended {
			b.WriteString("''") // neither charset nor language
		}
	}
	for _, pc := range pieces {
		if extended && !pc.extended {
			pc.value = strings.ReplaceAll(pc.value, "%", "%25")
		}
		b.WriteString(pc.value)
	}
	return Param{name, b.String()}
}
