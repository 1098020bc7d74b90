package proxy

import (
	"slices"
	"strings"
)

// never are capabilities that the proxy cannot carry or that belong to the
// state before login: compression would hide the commands, a new identity
// would make the route wrong, and RESUME is for proxies only.
var never = []string{"COMPRESS=", "STARTTLS", "AUTH=", "LOGINDISABLED", "SASL-IR", "RESUME", "XRESUME", "UNAUTHENTICATE",
	"LOGIN-REFERRALS", "MAILBOX-REFERRALS", "X-MAILFERRY"}

// policy is what a session may use: announced to the client and admitted from
// it. It is fixed at login and outlives a move. The value is read-only.
type policy struct {
	caps      []string // announced, in the store's order, upper case
	has       map[string]bool
	resumable map[string]bool // ENABLEd features that RESUME restores
	listed    string          // see list
}

// newPolicy admits what is in every list, in the order of the first.
func newPolicy(resumable []string, lists ...[]string) *policy {
	p := &policy{has: map[string]bool{}, resumable: map[string]bool{}}
	for _, f := range resumable {
		p.resumable[strings.ToUpper(f)] = true
	}
	for _, c := range lists[0] {
		c = strings.ToUpper(c)
		in := !p.has[c] && !forbidden(c)
		for _, l := range lists[1:] {
			in = in && slices.ContainsFunc(l, func(s string) bool { return strings.EqualFold(s, c) })
		}
		if in {
			p.has[c] = true
			p.caps = append(p.caps, c)
		}
	}
	p.listed = strings.Replace(strings.Join(p.caps, " "), "IMAP4REV", "IMAP4rev", 2)
	return p
}

func forbidden(c string) bool {
	for _, n := range never {
		if c == n || strings.HasSuffix(n, "=") && strings.HasPrefix(c, n) {
			return true
		}
	}
	return false
}

// list is the capability list as announced, with the spelling of RFC 3501 for
// clients that compare octets.
func (p *policy) list() string { return p.listed }

// needs says which capability a command needs, any one of several; commands of
// RFC 3501 need none. A command that is not here is not admitted.
var needs = map[string][]string{
	"CAPABILITY": nil, "NOOP": nil, "LOGOUT": nil, "SELECT": nil, "EXAMINE": nil, "CREATE": nil, "DELETE": nil,
	"RENAME": nil, "SUBSCRIBE": nil, "UNSUBSCRIBE": nil, "LIST": nil, "LSUB": nil, "STATUS": nil, "APPEND": nil,
	"CHECK": nil, "CLOSE": nil, "EXPUNGE": nil, "SEARCH": nil, "FETCH": nil, "STORE": nil, "COPY": nil, "UID": nil,
	"ID":   nil, // answered by every proxy before login, harmless where it is not known
	"IDLE": {"IDLE", "IMAP4REV2"}, "ENABLE": {"ENABLE", "IMAP4REV2"}, "NAMESPACE": {"NAMESPACE", "IMAP4REV2"},
	"UNSELECT": {"UNSELECT", "IMAP4REV2"}, "MOVE": {"MOVE", "IMAP4REV2"},
	"SORT": {"SORT", "SORT=DISPLAY"}, "THREAD": {"THREAD=REFERENCES", "THREAD=ORDEREDSUBJECT", "THREAD=REFS"},
	"GETACL": {"ACL"}, "SETACL": {"ACL"}, "DELETEACL": {"ACL"}, "LISTRIGHTS": {"ACL"}, "MYRIGHTS": {"ACL"},
	"GETQUOTA": {"QUOTA"}, "GETQUOTAROOT": {"QUOTA"}, "SETQUOTA": {"QUOTA", "QUOTASET"},
	"GETMETADATA": {"METADATA", "METADATA-SERVER"}, "SETMETADATA": {"METADATA", "METADATA-SERVER"},
	"GETANNOTATION": {"ANNOTATEMORE"}, "SETANNOTATION": {"ANNOTATEMORE"},
	"NOTIFY": {"NOTIFY"}, "CANCELUPDATE": {"CONTEXT=SEARCH", "CONTEXT=SORT"}, "ESEARCH": {"MULTISEARCH"},
	"LANGUAGE": {"LANGUAGE"}, "COMPARATOR": {"I18NLEVEL=2"}, "REPLACE": {"REPLACE"}, "XLIST": {"XLIST"},
	"GENURLAUTH": {"URLAUTH"}, "RESETKEY": {"URLAUTH"}, "URLFETCH": {"URLAUTH", "URLAUTH=BINARY"},
}

// admits returns why a command is refused, or nothing. args are its arguments
// in upper case as far as they stand on the first line.
func (p *policy) admits(verb, args string) string {
	want, known := needs[verb]
	if !known {
		return "Unknown command"
	}
	if len(want) > 0 && !slices.ContainsFunc(want, func(c string) bool { return p.has[c] }) {
		return "Unknown command"
	}
	switch verb {
	case "SEARCH", "SORT", "THREAD":
		r := returnOptions(args)
		if slices.Contains(r, "SAVE") && !p.has["SEARCHRES"] && !p.has["IMAP4REV2"] {
			return "RETURN (SAVE) is not supported"
		}
		if slices.Contains(r, "UPDATE") && !p.has["CONTEXT=SEARCH"] {
			return "RETURN (UPDATE) is not supported"
		}
	case "SELECT", "EXAMINE":
		if strings.Contains(args, "(QRESYNC") && !p.has["QRESYNC"] {
			return "QRESYNC is not supported"
		}
	}
	return ""
}

// enables keeps those names of an ENABLE that a session may switch on. The
// others are left out, not refused (RFC 5161, 3.1).
func (p *policy) enables(args []byte) (kept []string, all bool) {
	names := strings.Fields(string(args))
	for _, f := range names {
		if p.has[strings.ToUpper(f)] {
			kept = append(kept, f)
		}
	}
	return kept, len(kept) == len(names)
}

// returnOptions are the words of "RETURN (...)" (RFC 9051, 6.4.4).
func returnOptions(args string) []string {
	_, rest, ok := strings.Cut(args, "RETURN (")
	if !ok {
		return nil
	}
	opts, _, _ := strings.Cut(rest, ")")
	return strings.Fields(opts)
}
