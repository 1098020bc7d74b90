package line

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"unicode/utf8"
)

// Errors of SASL messages.
var (
	// ErrSASL: not what the mechanism demands (BAD).
	ErrSASL = errors.New("line: invalid SASL response")
	// ErrSASLCancelled: the client sent "*" (RFC 9051 section 6.2.2; BAD).
	ErrSASLCancelled = errors.New("line: authentication cancelled")
)

// MaxCredential bounds each name and secret.
const MaxCredential = 1024

// Plain is a message of SASL PLAIN (RFC 4616).
type Plain struct {
	Authzid  string // whom to act as; empty: Name
	Name     string // whose secret it is
	Password string
}

// ParsePlain parses the message. Names and secrets that are too long, are not
// UTF-8 or hold control characters are refused: they would let a peer write
// into protocols and logs behind us.
func ParsePlain(msg []byte) (Plain, error) {
	parts := bytes.Split(msg, []byte{0})
	if len(parts) != 3 {
		return Plain{}, ErrSASL
	}
	p := Plain{Authzid: string(parts[0]), Name: string(parts[1]), Password: string(parts[2])}
	if p.Name == "" || !ValidCredential(p.Authzid) || !ValidCredential(p.Name) || !ValidSecret(p.Password) {
		return Plain{}, ErrSASL
	}
	return p, nil
}

// AppendPlain builds the message for a client.
func AppendPlain(b []byte, p Plain) []byte {
	b = append(append(b, p.Authzid...), 0)
	b = append(append(b, p.Name...), 0)
	return append(b, p.Password...)
}

// ValidCredential reports whether s may be a user's name: UTF-8 without control
// characters, at most MaxCredential octets.
func ValidCredential(s string) bool {
	return len(s) <= MaxCredential && utf8.ValidString(s) && !strings.ContainsFunc(s, isControl)
}

// ValidSecret reports whether s may be a password: without CR, LF, NUL and
// other control characters. Old passwords need not be UTF-8.
func ValidSecret(s string) bool {
	if len(s) > MaxCredential {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] == 0x7f {
			return false
		}
	}
	return true
}

func isControl(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 }

// DecodeSASL decodes a client's line of base64: "*" is ErrSASLCancelled, "="
// (an empty initial response, RFC 4959) is empty.
func DecodeSASL(l []byte) ([]byte, error) {
	switch {
	case len(l) == 1 && l[0] == '*':
		return nil, ErrSASLCancelled
	case len(l) == 1 && l[0] == '=':
		return []byte{}, nil
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(l)))
	n, err := base64.StdEncoding.Strict().Decode(out, l)
	if err != nil {
		return nil, ErrSASL
	}
	return out[:n], nil
}

// LoginChallenges are the two questions of the LOGIN mechanism, in base64.
var LoginChallenges = [2]string{"VXNlcm5hbWU6", "UGFzc3dvcmQ6"}
