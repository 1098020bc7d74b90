package remote

import (
	"errors"
	"strconv"
	"strings"
)

// response is the head of a server response; for data responses the scanner
// stands behind the keyword.
type response struct {
	tag  string // "*" untagged, "+" continuation, else a command's
	name string // upper case: OK NO BAD BYE PREAUTH, CAPABILITY, LIST, FETCH ...
	num  uint32 // of "* n EXISTS" and its like
	// Of status responses: the code's name in upper case and what follows it
	// in the brackets, and the human text.
	code, arg, text string
}

func (r *response) status() bool {
	switch r.name {
	case "OK", "NO", "BAD", "BYE", "PREAUTH":
		return true
	}
	return false
}

// response reads the head of the next response, and status responses whole.
// Lines without any sense are skipped and counted as responses without a name.
func (s *scanner) response() (response, error) {
	tag, err := s.until(" \r\n")
	if err != nil {
		return response{}, err
	}
	r := response{tag: string(tag)}
	s.blanks()
	if r.tag == "+" {
		r.text, err = s.text()
		return r, err
	}
	if c, err := s.peek(); err == nil && c >= '0' && c <= '9' && r.tag == "*" {
		n, err := s.number()
		if err != nil || n > 1<<32-1 {
			return r, s.recover(err)
		}
		r.num = uint32(n)
		s.blanks()
	}
	name, err := s.token()
	if err != nil || len(name) == 0 {
		return r, s.recover(err)
	}
	r.name = strings.ToUpper(string(name))
	if !r.status() {
		return r, nil
	}
	s.blanks()
	text, err := s.text()
	r.code, r.arg, r.text = splitCode(text)
	return r, err
}

// recover turns nonsense into a skipped line.
func (s *scanner) recover(err error) error {
	if err != nil && !isSyntax(err) {
		return err
	}
	return s.skipLine()
}

func isSyntax(err error) bool { return errors.Is(err, errSyntax) }

// splitCode takes "[CODE args] text" apart. Codes may hold brackets in quoted
// strings; the first "]" outside of quotes ends them.
func splitCode(s string) (code, arg, text string) {
	if !strings.HasPrefix(s, "[") {
		return "", "", s
	}
	quoted := false
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quoted:
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ']' && !quoted:
			code, arg, _ = strings.Cut(s[1:i], " ")
			return strings.ToUpper(code), arg, strings.TrimLeft(s[i+1:], " ")
		}
	}
	return "", "", s
}

// number32 reads a code's argument such as UIDNEXT's; 0 when it is none.
func number32(arg string) uint32 {
	n, err := strconv.ParseUint(strings.TrimSpace(arg), 10, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}

func number64(arg string) uint64 {
	n, err := strconv.ParseUint(strings.TrimSpace(arg), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
