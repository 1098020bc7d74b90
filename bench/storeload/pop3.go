package main

import (
	"bufio"
	"fmt"
	"net"
	"strings"
)

type popConn struct {
	c net.Conn
	r *bufio.Reader
	w *bufio.Writer
}

func (p *popConn) line() (string, error) { return p.r.ReadString('\n') }

func (p *popConn) ok() (string, error) {
	l, err := p.line()
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(l, "+OK") {
		return "", imapError(l)
	}
	return l, nil
}

func (p *popConn) cmd(format string, a ...any) (string, error) {
	fmt.Fprintf(p.w, format+"\r\n", a...)
	if err := p.w.Flush(); err != nil {
		return "", err
	}
	return p.ok()
}

// multiline skips a multi-line reply, returning its bytes and lines.
func (p *popConn) multiline() (n int64, lines int, err error) {
	start := true
	for {
		l, err := p.r.ReadSlice('\n')
		n += int64(len(l))
		if err == bufio.ErrBufferFull {
			start = false
			continue
		}
		if err != nil {
			return n, lines, err
		}
		if start && len(l) == 3 && l[0] == '.' && l[1] == '\r' {
			return n, lines, nil
		}
		lines++
		start = true
	}
}
