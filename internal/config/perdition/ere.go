package perdition

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"mailferry/backend/directory"
)

// rule is one line of a map of regular expressions in our words: the pattern
// matches the whole key, the templates name its groups as ${1}.
type rule struct {
	pattern string
	line    directory.PopmapLine // templates; Key is the pattern as it was written
}

// parseRegexMap reads a map of regular expressions. Lines that cannot be said
// in Go's language are returned as errors.
func parseRegexMap(text, delimiter string) (rules []rule, errs []error) {
	var pattern string
	have := false
	for _, t := range scan(text, true) {
		switch {
		case t.end || t.text == "":
			have = false
		case !have:
			pattern, have = t.text, true
		default:
			have = false
			if p := strings.TrimSuffix(pattern, ":"); p != "" {
				r, err := newRule(p, t.text, delimiter)
				if err != nil {
					errs = append(errs, fmt.Errorf("%s: %w", p, err))
					continue
				}
				rules = append(rules, r)
			}
		}
	}
	return rules, errs
}

// newRule says a rule so that it means the same. What stands in a key before
// the match stays there, before the substitution: the module works that way,
// and people's unanchored rules depend on it.
func newRule(pattern, substitution, delimiter string) (rule, error) {
	p, err := fromPOSIX(pattern)
	if err != nil {
		return rule{}, err
	}
	re, err := regexp.Compile(p)
	if err != nil {
		return rule{}, err
	}
	re.Longest()
	for _, name := range []string{"~", "a", "A", "0", "@"} {
		if m := re.FindStringIndex(name); m != nil && m[0] == m[1] {
			return rule{}, errors.New("can match nothing at all in a name, where Perdition answers with a letter of the name")
		}
	}
	shift := 0
	if anchored(pattern) {
		p = "^(?:" + p + ").*$"
	} else {
		p, shift = "^(.*?)(?:"+p+").*$", 1
	}
	text := template(substitution, re.NumSubexp(), shift)
	l := directory.ParsePopmapValue(text, delimiter)
	l.Key = pattern
	return rule{p, l}, nil
}

// anchored: nothing can stand before a match. Patterns with branches are looked
// at no closer.
func anchored(p string) bool {
	begins := strings.HasPrefix(p, "^") || strings.HasPrefix(p, "(.*)") || strings.HasPrefix(p, ".*")
	return begins && !strings.Contains(p, "|")
}

// template writes $n as ${n}, groups moved by shift.
func template(s string, groups, shift int) string {
	var b strings.Builder
	if shift > 0 {
		b.WriteString("${1}")
	}
	for i := 0; i < len(s); i++ {
		if s[i] != '$' {
			b.WriteByte(s[i])
			continue
		}
		if i+1 < len(s) && s[i+1] >= '0' && s[i+1] <= '9' && int(s[i+1]-'0') <= groups {
			n := int(s[i+1] - '0')
			if n > 0 {
				n += shift
			}
			b.WriteString("${" + strconv.Itoa(n) + "}")
			i++
			continue
		}
		b.WriteString("$$")
	}
	return b.String()
}

// fromPOSIX writes an extended regular expression of POSIX in Go's language.
func fromPOSIX(p string) (string, error) {
	var b strings.Builder
	quantified := false
	for i := 0; i < len(p); i++ {
		c := p[i]
		was := quantified
		quantified = false
		switch c {
		case '\\':
			i++
			if i == len(p) {
				return "", errors.New("ends in a backslash")
			}
			if n := p[i]; n >= '0' && n <= '9' || strings.IndexByte("wWsSbB<>`'", n) >= 0 {
				return "", fmt.Errorf("\\%c has no equal", n)
			}
			b.WriteString(regexp.QuoteMeta(p[i : i+1]))
		case '[':
			n, class, err := bracket(p[i:])
			if err != nil {
				return "", err
			}
			b.WriteString(class)
			i += n - 1
		case '*', '+', '?', '{':
			if was {
				return "", errors.New("a repetition of a repetition has no equal")
			}
			quantified = true
			b.WriteByte(c)
			if c == '{' {
				end := strings.IndexByte(p[i:], '}')
				if end < 2 || strings.Trim(p[i+1:i+end], "0123456789,") != "" || p[i+1] == ',' {
					return "", errors.New("{ without a number has no equal")
				}
				b.WriteString(p[i+1 : i+end+1])
				i += end
			}
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), nil
}

// bracket reads a bracket expression, in which a backslash is a letter and a ]
// at the beginning, too.
func bracket(p string) (length int, class string, err error) {
	var b strings.Builder
	i := 1
	b.WriteByte('[')
	if i < len(p) && p[i] == '^' {
		b.WriteByte('^')
		i++
	}
	for first := true; i < len(p); first = false {
		switch c := p[i]; {
		case c == ']' && !first:
			b.WriteByte(']')
			return i + 1, b.String(), nil
		case c == '[' && i+1 < len(p) && p[i+1] == ':':
			end := strings.Index(p[i:], ":]")
			if end < 0 {
				return 0, "", errors.New("class without an end")
			}
			b.WriteString(p[i : i+end+2])
			i += end + 2
			continue
		case c == '[' && i+1 < len(p) && (p[i+1] == '.' || p[i+1] == '='):
			return 0, "", errors.New("collating elements have no equal")
		case strings.IndexByte(`\[]&~^`, c) >= 0:
			b.WriteByte('\\')
			b.WriteByte(c)
		default:
			b.WriteByte(c)
		}
		i++
	}
	return 0, "", errors.New("[ without ]")
}
