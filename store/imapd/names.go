package imapd

import (
	"strings"

	"mailferry/backend"
	"mailferry/internal/line"
)

// expectMailbox reads a mailbox name. ok is false with the command's answer in
// err: a syntax error, or NO for a name that cannot exist for this user.
func (s *session) expectMailbox(c *call, name *backend.MailboxName) error {
	var wire string
	if !c.d.ExpectAString(&wire) {
		return c.d.Err()
	}
	n, err := s.mailboxName(wire)
	*name = n
	return err
}

// mailboxName turns a name on the wire into a canonical one. The user's
// namespace is the one of the store that they came from.
func (s *session) mailboxName(wire string) (backend.MailboxName, error) {
	shown, err := line.DecodeUTF7(wire)
	if err != nil {
		return "", no("CANNOT", "Mailbox name is not valid modified UTF-7")
	}
	n, ok := s.namespace().Name(shown)
	if !ok || strings.ContainsFunc(shown, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", no("CANNOT", "Invalid mailbox name")
	}
	return n, nil
}

func (s *session) namespace() backend.Namespace {
	ns := s.account.User().Namespace
	if ns.Delimiter == "" {
		ns.Delimiter = backend.DefaultNamespace.Delimiter
	}
	return ns
}

// show is a canonical name as UTF-8 in the user's namespace.
func (s *session) show(n backend.MailboxName) string { return s.namespace().Show(n) }

// encodeMailbox writes a shown name.
func (s *session) encodeMailbox(shown string) line.Encoder {
	return s.enc.AString(line.EncodeUTF7(shown))
}

// matches reports whether a name matches a LIST pattern: "*" stands for
// anything, "%" for anything but the delimiter (RFC 3501 section 6.3.8). It
// takes time in proportion to len(pattern) * len(name).
func matches(pattern, name, delimiter string) bool {
	can := make([]bool, len(name)+1) // can[i]: the pattern so far matches name[:i]
	can[0] = true
	for i := 0; i < len(pattern); i++ {
		switch p := pattern[i]; p {
		case '*', '%':
			for j := 1; j <= len(name); j++ {
				if can[j-1] && (p == '*' || name[j-1:j] != delimiter) {
					can[j] = true
				}
			}
		default:
			for j := len(name); j > 0; j-- {
				can[j] = can[j-1] && name[j-1] == p
			}
			can[0] = false
		}
	}
	return can[len(name)]
}

// foldInbox writes INBOX in upper case where it begins a pattern, as INBOX
// matches in any case.
func foldInbox(pattern, delimiter string) string {
	const in = "INBOX"
	if len(pattern) >= len(in) && strings.EqualFold(pattern[:len(in)], in) &&
		(len(pattern) == len(in) || strings.HasPrefix(pattern[len(in):], delimiter)) {
		return in + pattern[len(in):]
	}
	return pattern
}
