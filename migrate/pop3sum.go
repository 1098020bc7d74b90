package migrate

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"io"
	"slices"
	"strings"
)

// maxCompared bounds what of a header is compared.
const maxCompared = 256 << 10

// headerSum sums up a header as POP3 and IMAP servers agree on it: without the
// fields in which some keep state, without lines that some drop because they
// are none, without blanks at the ends of lines.
func headerSum(r io.Reader) (sum [32]byte, err error) {
	in := bufio.NewReaderSize(io.LimitReader(r, maxCompared), 4096)
	h := sha256.New()
	keep, start := false, true
	for {
		line, err := in.ReadSlice('\n')
		if err != nil && err != io.EOF && err != bufio.ErrBufferFull {
			return sum, err
		}
		whole := err != bufio.ErrBufferFull
		text := bytes.TrimRight(line, " \t\r\n")
		if start && whole && len(text) == 0 {
			break
		}
		if start && line[0] != ' ' && line[0] != '\t' {
			keep = compared(text)
		}
		if keep {
			h.Write(text)
			if whole {
				h.Write([]byte{'\n'})
			}
		}
		if start = whole; err == io.EOF {
			break
		}
	}
	return [32]byte(h.Sum(nil)), nil
}

// compared reports whether a line begins a field that both sides show alike.
func compared(line []byte) bool {
	name, _, ok := bytes.Cut(line, []byte{':'})
	name = bytes.TrimRight(name, " \t")
	if !ok || len(name) == 0 || bytes.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return false
	}
	return !slices.ContainsFunc(stateFields, func(f string) bool { return strings.EqualFold(f, string(name)) })
}

// stateFields are where servers keep flags and UIDs in mailboxes of one file.
var stateFields = []string{"Status", "X-Status", "X-Keywords", "X-UID", "X-IMAP", "X-IMAPbase", "X-UIDL", "Content-Length"}

// textSum sums up a message whatever ends its lines, and without the ends of
// lines behind it: POP3 ends the last line in any case.
func textSum(r io.Reader) (sum [32]byte, err error) {
	h, buf := sha256.New(), make([]byte, 32<<10)
	ends := 0 // of lines, not written yet
	for {
		n, err := r.Read(buf)
		text := slices.DeleteFunc(buf[:n], func(b byte) bool { return b == '\r' })
		for len(text) > 0 {
			line, rest, ended := bytes.Cut(text, []byte{'\n'})
			if len(line) > 0 {
				for ; ends > 0; ends-- {
					h.Write([]byte{'\n'})
				}
				h.Write(line)
			}
			if ended {
				ends++
			}
			text = rest
		}
		if err == io.EOF {
			return [32]byte(h.Sum(nil)), nil
		}
		if err != nil {
			return sum, err
		}
	}
}
