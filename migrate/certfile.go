package migrate

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Certificates lie beside the journal of their batch: each in a file of its own,
// but for those of users in whom a copy found nothing new. To make a file costs
// more than to look at such a user; they share one, a line each.

// certificate writes a user's certificate beside the journal.
func (j *journal) certificate(c *Certificate) error {
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(j.dir, certificateName(c.User)), append(b, '\n'))
}

// linesName is the file of certificates that are lines.
const linesName = "certificates"

// certificateLine writes the certificate of a user in whom nothing changed.
func (j *journal) certificateLine(c *Certificate) error {
	line, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return j.alike.add(filepath.Join(j.dir, linesName), append(line, '\n'))
}

// certificateLines is the file while it is written. The zero value is closed. Safe
// for concurrent use.
type certificateLines struct {
	mu sync.Mutex
	f  *os.File // guarded by mu
}

// add writes a line; like replaceFile it syncs nothing. A line that the death of
// the process tore is ended first.
func (l *certificateLines) add(path string, line []byte) (err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		if l.f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
			return err
		}
		last := []byte{'\n'}
		if st, err := l.f.Stat(); err == nil && st.Size() > 0 {
			_, _ = l.f.ReadAt(last, st.Size()-1)
		}
		if last[0] != '\n' {
			line = append([]byte{'\n'}, line...)
		}
	}
	if _, err = l.f.Write(line); err != nil { // a part of it may be there: the next one ends it
		_ = l.f.Close()
		l.f = nil
	}
	return err
}

// close closes the file; the next line opens it again.
func (l *certificateLines) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return nil
	}
	f := l.f
	l.f = nil
	return f.Close()
}

// readCertificate is the latest of a user in a batch.
func readCertificate(dir, user string) (*Certificate, error) {
	c, _, err := readCertificateText(dir, user)
	return c, err
}

// readCertificateText is readCertificate with the text that is signed, as people
// read it.
func readCertificateText(dir, user string) (*Certificate, []byte, error) {
	c, text, err := decodeCertificate(os.ReadFile(filepath.Join(dir, certificateName(user))))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	line, e := findLine(filepath.Join(dir, linesName), user)
	if e != nil {
		if errors.Is(e, fs.ErrNotExist) {
			e = err
		}
		return c, text, e
	}
	l, _, e := decodeCertificate(line, nil)
	if e != nil || c != nil && c.Written.After(l.Written) {
		return c, text, err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, line, "", "  "); err != nil {
		return nil, nil, err
	}
	return l, b.Bytes(), nil
}

func decodeCertificate(text []byte, err error) (*Certificate, []byte, error) {
	if err != nil {
		return nil, nil, err
	}
	c := &Certificate{}
	if err := json.Unmarshal(text, c); err != nil {
		return nil, nil, err
	}
	return c, text, nil
}

// findLine is the last whole line of a user; fs.ErrNotExist: there is none.
func findLine(path, user string) (found []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	name, err := json.Marshal(user)
	if err != nil {
		return nil, err
	}
	head := fmt.Appendf(nil, `{"user":%s,`, name) // as encoding/json has it of a Certificate
	r := bufio.NewReaderSize(f, 64<<10)
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break // what is left has no end: torn
		}
		if err != nil {
			return nil, err
		}
		if bytes.HasPrefix(line, head) && json.Valid(line) {
			found = line
		}
	}
	if found == nil {
		return nil, fs.ErrNotExist
	}
	return found, nil
}

// certificateName is a file name for any user name.
func certificateName(user string) string {
	var b strings.Builder
	for i := range len(user) {
		if c := user[i]; c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || strings.IndexByte("@-_.", c) >= 0 && i > 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	name := b.String()
	if len(name) > 150 {
		name = fmt.Sprintf("%s%%%x", name[:100], sha256.Sum256([]byte(user)))
	}
	return "cert-" + name + ".json"
}

// replaceFile writes a file so that the death of the process leaves the old or
// the new one. It is not synced: it is written while a user waits.
func replaceFile(path string, data []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = os.Remove(tmp)
	}
	return err
}
