package pop3d

import (
	"errors"

	"mailferry/backend"
)

// failure is an answer "-ERR".
type failure struct {
	code string // of RFC 2449 section 8 or RFC 3206, without brackets; may be empty
	text string
}

func (f *failure) Error() string {
	if f.code != "" {
		return "[" + f.code + "] " + f.text
	}
	return f.text
}

// bad is a command that is wrong in itself; many in a row end the session.
type bad string

func (b bad) Error() string { return string(b) }

func refuse(code, text string) error { return &failure{code, text} }

// Codes of answers: RFC 3206 and RFC 2449 section 8.1.1.
const (
	codeTemporary = "SYS/TEMP"
	codePermanent = "SYS/PERM"
	codeAuth      = "AUTH"
	codeInUse     = "IN-USE"
)

// failureOf is the answer to a command that ended with err. log is true when an
// administrator should hear of it.
func failureOf(err error) (f *failure, log bool) {
	var b bad
	switch {
	case errors.As(err, &f):
		return f, false
	case errors.As(err, &b):
		return &failure{text: string(b)}, false
	}
	text := backend.UserText(err)
	switch backend.KindOf(err) {
	case backend.KindNotFound:
		return &failure{text: text}, false
	case backend.KindUnavailable:
		return &failure{codeTemporary, text}, true
	case backend.KindBug:
		return &failure{codePermanent, "Internal error, see the server's log"}, true
	}
	return &failure{codeTemporary, text}, false
}
