package line

import "bytes"

// DotWriter writes octets as the multi-line part of an answer (RFC 1939
// section 3, RFC 5321 section 4.5.2): a line that begins with a dot gets one
// more, and Close ends the answer with a dot alone. A lone LF becomes CRLF, so
// that no reader, however it splits lines, sees an end that is not one.
type DotWriter struct {
	w      *Writer
	inLine bool // the last octet did not end a line
	cr     bool // it was CR
}

// NewDotWriter begins a multi-line answer on w. Errors stick to w.
func NewDotWriter(w *Writer) *DotWriter { return &DotWriter{w: w} }

func (d *DotWriter) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		if !d.inLine && rest[0] == '.' {
			d.w.WriteByte('.')
		}
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			d.w.Write(rest)
			d.inLine, d.cr = true, rest[len(rest)-1] == '\r'
			break
		}
		if i > 0 && rest[i-1] == '\r' || i == 0 && d.cr {
			d.w.Write(rest[:i+1])
		} else {
			d.w.Write(rest[:i])
			d.w.WriteString("\r\n")
		}
		d.inLine, d.cr = false, false
		rest = rest[i+1:]
	}
	if err := d.w.Err(); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close ends the last line, if it is open, and the answer. It does not Flush.
func (d *DotWriter) Close() error {
	if d.inLine {
		d.w.WriteString("\r\n")
	}
	d.w.WriteString(".\r\n")
	return d.w.Err()
}
