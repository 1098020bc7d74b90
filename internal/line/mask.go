package line

import (
	"bytes"
	"strconv"
	"strings"
)

// Masked is the form of a client's line that may be logged: printable, at most
// some 200 octets, without the secrets of LOGIN, AUTHENTICATE, AUTH and PASS.
// Lines that answer a SASL challenge and the octets of literals must not be
// logged at all.
func Masked(l []byte) string {
	const most = 200
	fields := bytes.Fields(l[:min(len(l), 4*most)])
	for i, f := range fields[:min(len(fields), 2)] {
		keep := -1
		switch strings.ToUpper(string(f)) {
		case "LOGIN", "AUTHENTICATE", "AUTH":
			keep = i + 2 // the name, or the mechanism
			if keep <= len(fields) && i+1 < len(fields) && !atomOnly(fields[i+1]) {
				keep = i + 1
			}
		case "PASS", "APOP", "XCLIENT":
			keep = i + 1
		}
		if keep >= 0 && keep < len(fields) {
			return quotedLine(string(bytes.Join(fields[:keep], []byte(" ")))) + " [masked]"
		}
	}
	s := string(l[:min(len(l), most)])
	if len(l) > most {
		s += "..."
	}
	return quotedLine(s)
}

// atomOnly: a quoted name may hold spaces, and a literal hides what follows,
// so only an atom is told apart safely from the secret behind it.
func atomOnly(f []byte) bool {
	for _, c := range f {
		if !astringChars[c] {
			return false
		}
	}
	return len(f) > 0
}

func quotedLine(s string) string {
	q := strconv.QuoteToASCII(s)
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}
