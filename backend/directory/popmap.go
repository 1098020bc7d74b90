package directory

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"strings"

	"mailferry/backend"
)

// PopmapLine is one line of a popmap: key:[user@]host[:port].
type PopmapLine struct {
	Key  string
	User string // empty: the line names none
	Host string
	Port string // empty: the protocol's
}

// Store is what a popmap calls a store: host, or host:port.
func (l PopmapLine) Store() string {
	if l.Port == "" {
		return l.Host
	}
	return net.JoinHostPort(l.Host, l.Port)
}

// ParsePopmap reads a popmap as Perdition's makegdbm does: no comments, the key
// ends at the first colon, the first line of a key counts. Lines that have no
// key or no value are returned by number.
func ParsePopmap(data []byte, delimiter string) (lines []PopmapLine, bad []int) {
	seen := map[string]bool{}
	sc := bufio.NewScanner(bytes.NewReader(data))
	sc.Buffer(nil, 1<<20)
	for n := 1; sc.Scan(); n++ {
		text := strings.TrimRight(sc.Text(), " \t\r")
		if text == "" {
			continue
		}
		key, value, _ := strings.Cut(text, ":")
		l := ParsePopmapValue(value, delimiter)
		switch l.Key = key; {
		case key == "" || l.Host == "":
			bad = append(bad, n)
		case !seen[key]:
			seen[key] = true
			lines = append(lines, l)
		}
	}
	if sc.Err() != nil {
		bad = append(bad, len(lines))
	}
	return lines, bad
}

// ParsePopmapValue reads [user@]host[:port]. A host in brackets is an IPv6
// address.
func ParsePopmapValue(s, delimiter string) (l PopmapLine) {
	end := strings.LastIndexByte(s, ']')
	if i := strings.LastIndexByte(s, ':'); i > end {
		s, l.Port = s[:i], s[i+1:]
	}
	if i := strings.LastIndex(s, delimiter); i >= 0 {
		l.User, s = s[:i], s[i+len(delimiter):]
	}
	l.Host = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
	return l
}

func (f *File) parsePopmap(data []byte) ([]*fileUser, error) {
	lines, bad := ParsePopmap(data, f.o.Delimiter)
	if len(bad) > 0 {
		f.log.Warn("popmap has lines without key or host, which are left out", "path", f.o.Path, "lines", bad)
	}
	users := make([]*fileUser, 0, len(lines))
	for _, l := range lines {
		if !validName(l.Key) || !validName(l.Store()) || l.User != "" && !validName(l.User) {
			return nil, fmt.Errorf("%s: key %q is not usable", f.o.Path, l.Key)
		}
		e := backend.Entry{User: l.User, ID: l.User, Directory: f.o.Name, Store: l.Store()}
		if e.User == "" {
			e.User = l.Key
		}
		users = append(users, &fileUser{key: l.Key, entry: e})
	}
	return users, nil
}

// nameless reports whether a directory has no name for the user: a popmap line
// without one, which means the name that the client gave.
func nameless(d backend.Directory, e backend.Entry) bool {
	f, ok := d.(*File)
	return ok && f.o.Popmap && e.ID == ""
}
