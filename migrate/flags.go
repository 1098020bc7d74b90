package migrate

import (
	"fmt"
	"strings"

	"github.com/emersion/go-imap/v2"

	"mailferry/migrate/target"
)

// flagMapper makes flags that our protocol can say of flags as foreign stores
// have them. Lists are shared and read-only, as those of remote.Meta.
type flagMapper struct {
	cache map[*imap.Flag][]imap.Flag // by the shared list's first element
	odd   map[imap.Flag]imap.Flag    // what was changed into what
	subs  []*target.Substitution     // on lists, joined by blanks
}

// clean maps a list. Equal lists in give the same list out.
func (m *flagMapper) clean(flags []imap.Flag) []imap.Flag {
	if len(flags) == 0 {
		return nil
	}
	key := &flags[0]
	if l, ok := m.cache[key]; ok && len(l) == len(flags) {
		return l
	}
	out := make([]imap.Flag, len(flags))
	for i, f := range flags {
		out[i] = m.flag(f)
	}
	if len(m.subs) > 0 {
		out = m.substitute(out)
	}
	if m.cache == nil || len(m.cache) > 4096 {
		m.cache = make(map[*imap.Flag][]imap.Flag)
	}
	m.cache[key] = out
	return out
}

func (m *flagMapper) substitute(flags []imap.Flag) (out []imap.Flag) {
	names := make([]string, len(flags))
	for i, f := range flags {
		names[i] = string(f)
	}
	s := strings.Join(names, " ")
	for _, sub := range m.subs {
		s = sub.Apply(s)
	}
	for f := range strings.FieldsSeq(s) {
		out = append(out, m.flag(imap.Flag(f)))
	}
	return out
}

// flag maps one flag: what is no atom (RFC 9051 "flag") has its octets
// written as "=XX".
func (m *flagMapper) flag(f imap.Flag) imap.Flag {
	s, system := strings.CutPrefix(string(f), `\`)
	if s != "" && !strings.ContainsFunc(s, notAtom) {
		return f
	}
	var b strings.Builder
	if system {
		b.WriteByte('\\')
	}
	for i := range len(s) {
		if notAtom(rune(s[i])) {
			fmt.Fprintf(&b, "=%02X", s[i])
		} else {
			b.WriteByte(s[i])
		}
	}
	if s == "" {
		b.WriteString("=5C")
	}
	out := imap.Flag(strings.TrimPrefix(b.String(), `\=5C`))
	if out == "" {
		out = "=5C"
	}
	if m.odd == nil {
		m.odd = make(map[imap.Flag]imap.Flag)
	}
	m.odd[f] = out
	return out
}

// notAtom reports characters that an atom cannot hold; "]" may not stand in a
// flag either.
func notAtom(r rune) bool {
	return r <= 0x20 || r >= 0x7f || strings.ContainsRune(`(){%*"\]`, r)
}

// exceptions reports the flags that were changed.
func (m *flagMapper) exceptions() (list []Exception) {
	for from, to := range m.odd {
		list = append(list, Exception{What: fmt.Sprintf("flag %q is no IMAP flag: kept as %q", from, to)})
	}
	return list
}
