package target

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend"
)

// Rules say how mailboxes are named at the target, and what a copy may change
// there. They are kept in a batch's journal.
type Rules struct {
	// Prefix and Separator replace those that the target tells by NAMESPACE.
	Prefix    *string `json:"prefix,omitempty"`
	Separator string  `json:"separator,omitempty"`
	// Subfolder is the mailbox below which all others go; empty: none.
	Subfolder string `json:"subfolder,omitempty"`
	// Map names mailboxes outright: as the target shows them, by how the
	// source does. It goes before everything else.
	Map map[string]string `json:"map,omitempty"`
	// Regex are substitutions s/pattern/replacement/ on the target's names, in order.
	Regex []string `json:"regex,omitempty"`
	// Automap takes the target's own mailbox of the same special use, whatever its name.
	Automap bool `json:"automap,omitempty"`
	// NoSubscribe leaves subscriptions alone; SubscribeAll subscribes every mailbox.
	NoSubscribe  bool `json:"no_subscribe,omitempty"`
	SubscribeAll bool `json:"subscribe_all,omitempty"`
	// Delete removes messages of the target that the source does not have;
	// DeleteFolders mailboxes. MassDelete allows that to be more than a tenth
	// of what is there.
	Delete        bool `json:"delete,omitempty"`
	DeleteFolders bool `json:"delete_folders,omitempty"`
	MassDelete    bool `json:"mass_delete,omitempty"`
	// NoFlags leaves the flags of messages that were copied before alone.
	NoFlags bool `json:"no_flags,omitempty"`
	// What of a user's data beside mail is left alone.
	NoACL      bool `json:"no_acl,omitempty"`
	NoQuota    bool `json:"no_quota,omitempty"`
	NoMetadata bool `json:"no_metadata,omitempty"`
	NoSieve    bool `json:"no_sieve,omitempty"`
	// TellACL: nobody wished NoACL, so access rights that are left out are named.
	TellACL bool `json:"tell_acl,omitempty"`
	// Identifiers are the names at the target of those whom access control lists
	// name, by their name at the source; groups as "group:name". Others are
	// changed as the name of the mailboxes' owner is, or named in the report.
	Identifiers map[string]string `json:"identifiers,omitempty"`
	// MaxSize is the largest message to send; 0: what the target announces.
	MaxSize int64 `json:"max_size,omitempty"`
}

// Check reports the first rule that cannot be followed.
func (r *Rules) Check() error {
	if r == nil {
		return nil
	}
	for _, s := range r.Regex {
		if _, err := ParseSubstitution(s); err != nil {
			return err
		}
	}
	if len(r.Separator) > 1 {
		return fmt.Errorf("separator %q is not one character", r.Separator)
	}
	return nil
}

// Substitution is a Perl s/// or tr///: of Perl's language what RE2 knows.
type Substitution struct {
	re     *regexp.Regexp
	with   string
	global bool
	from   []rune // tr
	to     []rune
}

// ParseSubstitution reads s/pattern/replacement/flags with any delimiter, flags g
// and i, and tr/abc/xyz/ (y///). What RE2 does not know is refused.
func ParseSubstitution(expr string) (*Substitution, error) {
	expr = strings.TrimSpace(expr)
	var op string
	switch {
	case strings.HasPrefix(expr, "tr"):
		op = "tr"
	case strings.HasPrefix(expr, "s"), strings.HasPrefix(expr, "y"):
		op = expr[:1]
	default:
		return nil, fmt.Errorf("%q is no substitution like s/old/new/", expr)
	}
	parts, err := splitDelimited(expr[len(op):])
	if err != nil {
		return nil, fmt.Errorf("%q: %w", expr, err)
	}
	if op != "s" {
		return transliteration(parts, expr)
	}
	out := &Substitution{with: replacement(parts[1])}
	pattern := parts[0]
	for _, f := range parts[2] {
		switch f {
		case 'g':
			out.global = true
		case 'i':
			pattern = "(?i)" + pattern
		case 'x', 'e', 'm', 's':
			return nil, fmt.Errorf("%q: the flag %c is not understood, only g and i", expr, f)
		case ';', ' ':
		default:
			return nil, fmt.Errorf("%q: unknown flag %c", expr, f)
		}
	}
	if out.re, err = regexp.Compile(pattern); err != nil {
		return nil, fmt.Errorf("%q: %w", expr, err)
	}
	return out, nil
}

// splitDelimited takes "/a/b/flags" apart; a backslash hides the delimiter.
func splitDelimited(s string) (parts [3]string, err error) {
	if s == "" {
		return parts, fmt.Errorf("nothing behind the operator")
	}
	open := s[0]
	closer, paired := map[byte]byte{'{': '}', '(': ')', '[': ']', '<': '>'}[open]
	if !paired {
		closer = open
	}
	s = s[1:]
	for n := range 2 {
		if n == 1 && paired {
			if s = strings.TrimLeft(s, " "); s == "" || s[0] != open {
				return parts, fmt.Errorf("no replacement")
			}
			s = s[1:]
		}
		var b strings.Builder
		depth, end := 0, -1
		for i := 0; i < len(s) && end < 0; i++ {
			switch c := s[i]; {
			case c == '\\' && i+1 < len(s):
				if s[i+1] != closer || strings.IndexByte(`.|()[]{}^$*+?`, closer) >= 0 && n == 0 {
					b.WriteByte(c)
				}
				i++
				b.WriteByte(s[i])
			case paired && c == open:
				depth++
				b.WriteByte(c)
			case c == closer && depth > 0:
				depth--
				b.WriteByte(c)
			case c == closer:
				end = i
			default:
				b.WriteByte(c)
			}
		}
		if end < 0 {
			return parts, fmt.Errorf("it has no end %q", closer)
		}
		parts[n], s = b.String(), s[end+1:]
	}
	parts[2] = s
	return parts, nil
}

var backReference = regexp.MustCompile(`\\([1-9])|\$([1-9])|\$\{([1-9])\}|\$&|\$|\\(.)`)

// replacement makes Go's of Perl's: \1, $1 and ${1} refer to groups.
func replacement(s string) string {
	return backReference.ReplaceAllStringFunc(s, func(m string) string {
		g := backReference.FindStringSubmatch(m)
		switch n := g[1] + g[2] + g[3]; {
		case n != "":
			return "${" + n + "}"
		case m == "$&":
			return "${0}"
		case m == "$":
			return "$$"
		}
		return strings.ReplaceAll(g[4], "$", "$$")
	})
}

func transliteration(parts [3]string, expr string) (*Substitution, error) {
	if strings.Trim(parts[2], "; ") != "" {
		return nil, fmt.Errorf("%q: flags of tr are not understood", expr)
	}
	s := &Substitution{from: expandRange(parts[0]), to: expandRange(parts[1])}
	if len(s.to) == 0 {
		s.to = s.from
	}
	return s, nil
}

func expandRange(s string) (out []rune) {
	r := []rune(s)
	for i := 0; i < len(r); i++ {
		switch {
		case r[i] == '\\' && i+1 < len(r):
			i++
			out = append(out, r[i])
		case i > 0 && r[i] == '-' && i+1 < len(r) && r[i-1] < r[i+1]:
			for c := r[i-1] + 1; c <= r[i+1]; c++ {
				out = append(out, c)
			}
			i++
		default:
			out = append(out, r[i])
		}
	}
	return out
}

// Apply substitutes in s.
func (t *Substitution) Apply(s string) string {
	if t.re == nil {
		return strings.Map(func(r rune) rune {
			for i, f := range t.from {
				if f == r {
					return t.to[min(i, len(t.to)-1)]
				}
			}
			return r
		}, s)
	}
	if t.global {
		return t.re.ReplaceAllString(s, t.with)
	}
	at := t.re.FindStringSubmatchIndex(s)
	if at == nil {
		return s
	}
	return s[:at[0]] + string(t.re.ExpandString(nil, t.with, s, at)) + s[at[1]:]
}

// namer gives the source's mailboxes names at the target.
type namer struct {
	rules  *Rules
	source backend.Namespace
	ns     backend.Namespace // of the target
	subs   []*Substitution
	uses   map[imap.MailboxAttr]string // the target's own, by special use
}

func newNamer(r *Rules, source, target backend.Namespace) (*namer, error) {
	n := &namer{rules: r, source: source, ns: target, uses: make(map[imap.MailboxAttr]string)}
	if r.Prefix != nil {
		n.ns.Prefix = *r.Prefix
	}
	if r.Separator != "" {
		n.ns.Delimiter = r.Separator
	}
	for _, s := range r.Regex {
		sub, err := ParseSubstitution(s)
		if err != nil {
			return nil, err
		}
		n.subs = append(n.subs, sub)
	}
	return n, nil
}

// name is how the target shall show a mailbox; note says why it is not what the
// source has, where that is nobody's wish. wished: a rule named it.
func (n *namer) name(m *backend.ImportMailbox) (shown, note string, wished bool) {
	if to, ok := n.rules.Map[n.source.Show(m.Name)]; ok {
		return to, "", true
	}
	if n.rules.Automap {
		for _, u := range m.SpecialUse {
			if to := n.uses[u]; to != "" {
				return to, "", true
			}
		}
	}
	parts := m.Name.Components()
	for i, p := range parts {
		if n.ns.Delimiter != "" && strings.Contains(p, n.ns.Delimiter) {
			parts[i] = strings.ReplaceAll(p, n.ns.Delimiter, "_")
			note = fmt.Sprintf("the target's separator is %q", n.ns.Delimiter)
		}
	}
	if n.rules.Subfolder != "" {
		parts = append([]string{n.rules.Subfolder}, parts...)
	}
	plain := n.ns.Show(backend.JoinName(parts...))
	shown = plain
	for _, s := range n.subs {
		shown = s.Apply(shown)
	}
	return shown, note, shown != plain
}
