package submission

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strings"
	"time"

	"mailferry/backend"
	"mailferry/store/smtpd"
)

// maxHeader bounds the header section, which is held in memory.
const maxHeader = 256 << 10

// complete adds Date and Message-ID to a message that has none (RFC 6409 8.2
// and 8.3). It reads the header section; the rest is read with the result.
func complete(r io.Reader, domain string, now time.Time) (io.Reader, error) {
	br := bufio.NewReaderSize(r, 4096)
	var header bytes.Buffer
	hasDate, hasID := false, false
	for atStart := true; ; {
		piece, err := br.ReadSlice('\n')
		if atStart {
			hasDate = hasDate || isField(piece, "Date")
			hasID = hasID || isField(piece, "Message-ID")
		}
		header.Write(piece)
		end := atStart && len(bytes.TrimRight(piece, "\r\n")) == 0
		atStart = err == nil
		if err == bufio.ErrBufferFull {
			err = nil
		}
		if header.Len() > maxHeader {
			return nil, backend.NewError(backend.KindTooLarge, "header too large")
		}
		if end || err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	var added strings.Builder
	if !hasDate {
		fmt.Fprintf(&added, "Date: %s\r\n", now.Format("Mon, 2 Jan 2006 15:04:05 -0700"))
	}
	if !hasID {
		fmt.Fprintf(&added, "Message-ID: <%s.%s@%s>\r\n", now.UTC().Format("20060102150405"), smtpd.NewID(), domain)
	}
	return io.MultiReader(strings.NewReader(added.String()), &header, br), nil
}

// isField reports whether a line begins the field of this name.
func isField(line []byte, name string) bool {
	i := bytes.IndexByte(line, ':')
	return i > 0 && strings.EqualFold(string(bytes.TrimRight(line[:i], " \t")), name)
}
