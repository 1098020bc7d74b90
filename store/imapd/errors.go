package imapd

import (
	"errors"

	"mailferry/backend"
)

// status is an answer other than a plain OK: a tagged NO or BAD, or an OK with
// a code or text of its own.
type status struct {
	kind string // OK, NO or BAD
	code string // without brackets; may be empty
	text string
}

func (s *status) Error() string {
	if s.code != "" {
		return s.kind + " [" + s.code + "] " + s.text
	}
	return s.kind + " " + s.text
}

func no(code, text string) error   { return &status{"NO", code, text} }
func bad(text string) error        { return &status{"BAD", "", text} }
func okay(code, text string) error { return &status{"OK", code, text} }

// codes maps the kinds of errors to response codes (RFC 5530, RFC 7889, RFC 3501).
var codes = map[backend.Kind]string{
	backend.KindBug:            "SERVERBUG",
	backend.KindInvalid:        "CANNOT",
	backend.KindNotFound:       "NONEXISTENT",
	backend.KindExists:         "ALREADYEXISTS",
	backend.KindPermission:     "NOPERM",
	backend.KindAuthentication: "AUTHENTICATIONFAILED",
	backend.KindOverQuota:      "OVERQUOTA",
	backend.KindTooLarge:       "LIMIT",
	backend.KindConflict:       "INUSE",
	backend.KindTemporary:      "UNAVAILABLE",
	backend.KindUnavailable:    "UNAVAILABLE",
}

// statusOf is the answer to a command that ended with err. log is true when an
// administrator should hear of it.
func statusOf(err error) (st *status, log bool) {
	if errors.As(err, &st) {
		return st, false
	}
	k := backend.KindOf(err)
	text := backend.UserText(err)
	if k == backend.KindBug {
		text = "Internal error, see the server's log"
	}
	return &status{"NO", codes[k], text}, k == backend.KindBug || k == backend.KindUnavailable
}

// tryCreate turns a missing target of APPEND, COPY or MOVE into its own code
// (RFC 3501 section 7.1).
func tryCreate(err error) error {
	if backend.IsKind(err, backend.KindNotFound) {
		return no("TRYCREATE", "No such mailbox")
	}
	return err
}
