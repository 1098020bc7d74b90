package proxy

import (
	"bytes"
	"crypto/rand"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/emersion/go-smtp"
)

// bareDomain stands for the domain that a recipient has not: go-smtp's parser
// wants one, old stores have users without. Nobody outside can know it.
var bareDomain = "@" + strings.ToLower(rand.Text()) + ".invalid"

// bareNames lets a mail server's commands have recipients without a domain: it
// puts one in on the way to go-smtp, and takes it out of the replies. Messages
// go by untouched, so it follows the dialogue; behind STARTTLS it sees nothing
// any more. Its memory is bounded by a read and a command line. Reads and
// writes may come from two goroutines.
type bareNames struct {
	mu    sync.Mutex
	state bareState
	raw   []byte // read, not looked at
	out   []byte // a command line on its way
	left  uint64 // of a chunk
	tail  []byte // of a message, where its end may have begun
	used  bool
}

type bareState uint8

const (
	bareCommand bareState = iota
	bareReply             // DATA was said
	bareData              // a message up to its dot
	bareChunk             // octets of a BDAT (RFC 3030)
	bareTLS               // STARTTLS was said
	bareOff               // behind it
)

// maxCommandLine bounds the line of a command; RFC 5321, 4.5.3.1.4 asks for 512
// octets, and more with extensions.
const maxCommandLine = 4 << 10

var (
	bareRcpt = regexp.MustCompile(`^(?i:RCPT TO:) ?<([^<>@"\s]+)>`)
	bdatLine = regexp.MustCompile(`^(?i:BDAT) +([0-9]{1,18})\b`)
	endOfMsg = []byte("\r\n.\r\n")
)

// add takes octets that were read.
func (b *bareNames) add(octets []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.raw = append(b.raw, octets...)
}

// rest is what is there when nothing more will come.
func (b *bareNames) rest(p []byte) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.give(p, len(b.raw))
}

// next hands out what may be read now, a command line at a time, so that its
// reply is known before the next is looked at. 0: more has to be read.
func (b *bareNames) next(p []byte) (n int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.out) > 0 {
		n = copy(p, b.out)
		b.out = b.out[n:]
		return n, nil
	}
	if len(b.raw) == 0 {
		return 0, nil
	}
	n = min(len(p), len(b.raw))
	switch b.state {
	case bareOff:
	case bareChunk:
		if n = int(min(uint64(n), b.left)); uint64(n) == b.left {
			b.state = bareCommand
		}
		b.left -= uint64(n)
	case bareData:
		n = b.message(n)
	default:
		i := bytes.IndexByte(b.raw, '\n')
		if i >= maxCommandLine || i < 0 && len(b.raw) >= maxCommandLine {
			return 0, smtp.ErrTooLongLine
		}
		if i < 0 {
			return 0, nil
		}
		b.out = b.command(b.raw[:i+1])
		b.raw = b.raw[i+1:]
		n = copy(p, b.out)
		b.out = b.out[n:]
		return n, nil
	}
	return b.give(p, n), nil
}

func (b *bareNames) give(p []byte, n int) int {
	n = copy(p, b.raw[:n])
	if b.raw = b.raw[n:]; len(b.raw) == 0 {
		b.raw = nil
	}
	return n
}

// command looks at one line and returns it as go-smtp shall read it.
func (b *bareNames) command(l []byte) []byte {
	b.state = bareCommand
	if m := bareRcpt.FindSubmatchIndex(l); m != nil {
		b.used = true
		return []byte(string(l[:m[3]]) + bareDomain + string(l[m[3]:]))
	}
	if m := bdatLine.FindSubmatch(l); m != nil {
		if n, err := strconv.ParseUint(string(m[1]), 10, 63); err == nil && n > 0 {
			b.state, b.left = bareChunk, n
		}
	}
	switch strings.ToUpper(strings.TrimSpace(string(l))) {
	case "DATA":
		b.state = bareReply
	case "STARTTLS":
		b.state = bareTLS
	}
	return bytes.Clone(l)
}

// message returns how many of the next n octets belong to the message.
func (b *bareNames) message(n int) int {
	edge := string(b.tail) + string(b.raw[:min(n, len(endOfMsg)-1)])
	end := -1
	if i := strings.Index(edge, string(endOfMsg)); i >= 0 {
		end = i + len(endOfMsg) - len(b.tail)
	} else if i := bytes.Index(b.raw[:n], endOfMsg); i >= 0 {
		end = i + len(endOfMsg)
	}
	if end > 0 {
		b.state = bareCommand
		return end
	}
	all := string(b.tail) + string(b.raw[max(0, n-len(endOfMsg)+1):n])
	b.tail = append(b.tail[:0], all[max(0, len(all)-len(endOfMsg)+1):]...)
	return n
}

// reply takes what is written and returns what the mail server shall read.
func (b *bareNames) reply(p []byte) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.state == bareReply && bytes.HasPrefix(p, []byte("354")):
		b.state, b.tail = bareData, append(b.tail[:0], "\r\n"...)
	case b.state == bareTLS && bytes.HasPrefix(p, []byte("220")):
		b.state = bareOff
	case b.state == bareReply || b.state == bareTLS:
		b.state = bareCommand
	}
	if !b.used || b.state == bareOff {
		return p
	}
	return bytes.ReplaceAll(p, []byte(bareDomain), nil)
}

// Read implements net.Conn.
func (c *lmtpConn) Read(p []byte) (int, error) {
	for len(p) > 0 {
		if n, err := c.bare.next(p); n > 0 || err != nil {
			return n, err
		}
		n, err := c.Conn.Read(p)
		if n == 0 {
			if n = c.bare.rest(p); n > 0 {
				return n, nil
			}
			return 0, err
		}
		c.bare.add(p[:n])
	}
	return 0, nil
}
