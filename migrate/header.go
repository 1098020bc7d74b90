package migrate

import (
	"bytes"
	"net/mail"
	"strings"
	"time"
)

// headerTee keeps the beginning of a message's header.
type headerTee struct {
	buf  []byte
	full bool
}

const maxHeader = 16 << 10

func (h *headerTee) Write(p []byte) (int, error) {
	if !h.full {
		h.buf = append(h.buf, p[:min(len(p), maxHeader-len(h.buf))]...)
		h.full = len(h.buf) >= maxHeader || bytes.Contains(h.buf, []byte("\r\n\r\n"))
	}
	return len(p), nil
}

// date is when the message was received, or written, as far as its header
// tells; the Unix epoch otherwise. from names the source.
func (h *headerTee) date() (t time.Time, from string) {
	if v := h.field("Received"); v != "" {
		if i := strings.LastIndexByte(v, ';'); i >= 0 {
			if t, err := mail.ParseDate(strings.TrimSpace(v[i+1:])); err == nil && t.Year() >= 1970 {
				return t, "Received"
			}
		}
	}
	if t, err := mail.ParseDate(h.field("Date")); err == nil && t.Year() >= 1970 {
		return t, "Date"
	}
	return time.Unix(0, 0).UTC(), "nowhere: set to 1970"
}

// field is the first field of that name, unfolded.
func (h *headerTee) field(name string) string {
	var value []string
	for line := range bytes.Lines(h.buf) {
		s := strings.TrimRight(string(line), "\r\n")
		switch {
		case s == "":
			return strings.Join(value, " ")
		case value != nil && (s[0] == ' ' || s[0] == '\t'):
			value = append(value, strings.TrimSpace(s))
		case value != nil:
			return strings.Join(value, " ")
		case len(s) > len(name) && s[len(name)] == ':' && strings.EqualFold(s[:len(name)], name):
			value = []string{strings.TrimSpace(s[len(name)+1:])}
		}
	}
	return strings.Join(value, " ")
}
