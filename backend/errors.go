package backend

import (
	"errors"
	"fmt"
	"strings"
)

// Kind says what an error means to the peer that has to be answered. It is
// decided where the error is born; each protocol maps kinds to its own codes in
// one function.
type Kind uint8

// The kinds. Temporary and Unavailable both invite a retry: Temporary is about
// this request (a lock, a hold), Unavailable about a part that is away (a
// store, a directory, a quorum).
const (
	KindBug Kind = iota // anything without a kind is our fault
	KindInvalid
	KindNotFound
	KindExists
	KindPermission
	KindAuthentication
	KindOverQuota
	KindTooLarge
	KindConflict
	KindTemporary
	KindUnavailable
)

var kindNames = [...]string{"bug", "invalid", "not found", "exists", "permission denied", "authentication failed",
	"over quota", "too large", "conflict", "temporary failure", "unavailable"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "kind?"
}

// Error carries two texts: Text is safe to show to any user; Err, with its
// cause, host and path, is for the log alone.
type Error struct {
	Kind Kind
	Text string // one safe sentence without secrets; empty: the kind's name
	Err  error  // may be nil
}

// Errorf builds an Error whose format and arguments are for the log; the user
// sees text only.
func Errorf(k Kind, text, format string, args ...any) error {
	return &Error{Kind: k, Text: text, Err: fmt.Errorf(format, args...)}
}

// NewError builds an Error with a text that is safe for users and the log.
func NewError(k Kind, text string) error { return &Error{Kind: k, Text: text} }

func (e *Error) Error() string {
	s := e.Text
	if s == "" {
		s = e.Kind.String()
	}
	if e.Err != nil {
		return strings.TrimSuffix(s, ".") + ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// KindOf is the kind of the outermost Error in err's chain, KindBug without one.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return KindBug
}

// IsKind reports whether err carries kind k.
func IsKind(err error, k Kind) bool {
	var e *Error
	return errors.As(err, &e) && e.Kind == k
}

// UserText is the sentence of err that may be shown to a user.
func UserText(err error) string {
	var e *Error
	if errors.As(err, &e) && e.Text != "" {
		return e.Text
	}
	return KindOf(err).String()
}
