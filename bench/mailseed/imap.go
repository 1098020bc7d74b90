package main

// A small IMAP client: enough to seed, read back and stream mailboxes.
// Standard library only, no dependency on any IMAP package, so that it can
// serve as an independent judge of servers and migration tools.

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

type node struct {
	kind byte // 'a' atom, 's' string or literal, 'l' list, 'n' NIL
	s    string
	l    []node
}

type resp struct {
	tag  string // "*", "+" or a tag
	num  uint64 // leading number, when there is one
	name string // OK, NO, BAD, BYE, FETCH, LIST, ...
	text string // resp-text after OK/NO/BAD/BYE
	args []node
}

type imapConn struct {
	nc   net.Conn
	br   *bufio.Reader
	bw   *bufio.Writer
	seq  int
	caps map[string]bool
}

type endpoint struct {
	addr     string
	useTLS   bool
	pass     string
	master   string // when set: login as user*master (sep) or AUTHENTICATE PLAIN with authzid
	masterBy string // "sep" or "authzid"
}

func dialIMAP(e endpoint, user string) (*imapConn, error) {
	d := net.Dialer{Timeout: 20 * time.Second}
	nc, err := d.Dial("tcp", e.addr)
	if err != nil {
		return nil, err
	}
	if e.useTLS {
		nc = tls.Client(nc, &tls.Config{InsecureSkipVerify: true})
	}
	c := &imapConn{nc: nc}
	c.init()
	g, err := c.read()
	if err != nil {
		nc.Close()
		return nil, err
	}
	if g.name != "OK" && g.name != "PREAUTH" {
		nc.Close()
		return nil, fmt.Errorf("greeting: %s %s", g.name, g.text)
	}
	if e.master != "" && e.masterBy == "authzid" {
		ir := base64.StdEncoding.EncodeToString([]byte(user + "\x00" + e.master + "\x00" + e.pass))
		if _, err = c.cmd("AUTHENTICATE PLAIN " + ir); err != nil {
			nc.Close()
			return nil, err
		}
	} else {
		u := user
		if e.master != "" {
			u = user + "*" + e.master
		}
		if _, err = c.cmd("LOGIN " + quote(u) + " " + quote(e.pass)); err != nil {
			nc.Close()
			return nil, err
		}
	}
	if err = c.capability(); err != nil {
		nc.Close()
		return nil, err
	}
	return c, nil
}

func (c *imapConn) init() {
	c.br = bufio.NewReaderSize(c.nc, 256<<10)
	c.bw = bufio.NewWriterSize(c.nc, 256<<10)
}

func (c *imapConn) capability() error {
	c.caps = map[string]bool{}
	rs, err := c.cmd("CAPABILITY")
	if err != nil {
		return err
	}
	for _, r := range rs {
		if r.name == "CAPABILITY" {
			for _, a := range r.args {
				c.caps[strings.ToUpper(a.s)] = true
			}
		}
	}
	return nil
}

func (c *imapConn) logout() {
	c.nc.SetDeadline(time.Now().Add(5 * time.Second))
	c.cmd("LOGOUT")
	c.nc.Close()
}

func (c *imapConn) tag() string { c.seq++; return "m" + strconv.Itoa(c.seq) }

// cmd sends one command without literals and collects untagged responses.
func (c *imapConn) cmd(line string) ([]*resp, error) {
	var out []*resp
	err := c.each(line, func(r *resp) error { out = append(out, r); return nil })
	return out, err
}

func (c *imapConn) each(line string, fn func(*resp) error) error {
	t := c.tag()
	fmt.Fprintf(c.bw, "%s %s\r\n", t, line)
	if err := c.bw.Flush(); err != nil {
		return err
	}
	var ferr error
	for {
		r, err := c.read()
		if err != nil {
			return err
		}
		if r.tag == t {
			if r.name != "OK" {
				return &imapError{line, r.name, r.text}
			}
			return ferr
		}
		if ferr == nil {
			ferr = fn(r)
		}
	}
}

type imapError struct{ cmd, status, text string }

func (e *imapError) Error() string {
	c := e.cmd
	if len(c) > 100 {
		c = c[:100] + "..."
	}
	return fmt.Sprintf("%q: %s %s", c, e.status, e.text)
}

func (c *imapConn) read() (*resp, error) {
	tag, err := c.word()
	if err != nil {
		return nil, err
	}
	r := &resp{tag: tag}
	if tag == "+" {
		r.text, err = c.rest()
		return r, err
	}
	w, err := c.word()
	if err != nil {
		return nil, err
	}
	if n, e := strconv.ParseUint(w, 10, 64); e == nil && tag == "*" {
		r.num = n
		if w, err = c.word(); err != nil {
			return nil, err
		}
	}
	r.name = strings.ToUpper(w)
	switch r.name {
	case "OK", "NO", "BAD", "BYE", "PREAUTH":
		r.text, err = c.rest()
		return r, err
	}
	r.args, err = c.nodes(true)
	return r, err
}

// word reads up to the next space, or up to (not including) the line end.
func (c *imapConn) word() (string, error) {
	var b []byte
	for {
		ch, err := c.br.ReadByte()
		if err != nil {
			return "", err
		}
		if ch == ' ' {
			return string(b), nil
		}
		if ch == '\r' || ch == '\n' {
			c.br.UnreadByte()
			return string(b), nil
		}
		b = append(b, ch)
	}
}

func (c *imapConn) rest() (string, error) {
	s, err := c.br.ReadString('\n')
	return strings.TrimRight(s, "\r\n"), err
}

func (c *imapConn) nodes(top bool) ([]node, error) {
	var out []node
	for {
		ch, err := c.br.ReadByte()
		if err != nil {
			return nil, err
		}
		switch {
		case ch == ' ' || ch == '\r':
		case ch == '\n':
			if top {
				return out, nil
			}
			return nil, errors.New("line end inside a list")
		case ch == ')':
			if top {
				continue
			}
			return out, nil
		case ch == '(':
			l, err := c.nodes(false)
			if err != nil {
				return nil, err
			}
			out = append(out, node{kind: 'l', l: l})
		case ch == '"':
			var b []byte
			for {
				ch, err = c.br.ReadByte()
				if err != nil {
					return nil, err
				}
				if ch == '"' {
					break
				}
				if ch == '\\' {
					if ch, err = c.br.ReadByte(); err != nil {
						return nil, err
					}
				}
				b = append(b, ch)
			}
			out = append(out, node{kind: 's', s: string(b)})
		case ch == '{':
			s, err := c.br.ReadString('\n')
			if err != nil {
				return nil, err
			}
			n, err := strconv.Atoi(strings.TrimRight(s, "+}\r\n"))
			if err != nil {
				return nil, fmt.Errorf("bad literal %q", s)
			}
			b := make([]byte, n)
			if _, err = io.ReadFull(c.br, b); err != nil {
				return nil, err
			}
			out = append(out, node{kind: 's', s: string(b)})
		default:
			b := []byte{ch}
			depth := 0
			if ch == '[' {
				depth = 1
			}
			for {
				ch, err = c.br.ReadByte()
				if err != nil {
					return nil, err
				}
				if ch == '[' {
					depth++
				}
				if ch == ']' && depth > 0 {
					depth--
				} else if depth == 0 && (ch == ' ' || ch == ')' || ch == '(' || ch == '\r' || ch == '\n') {
					c.br.UnreadByte()
					break
				}
				b = append(b, ch)
			}
			if strings.EqualFold(string(b), "NIL") {
				out = append(out, node{kind: 'n'})
			} else {
				out = append(out, node{kind: 'a', s: string(b)})
			}
		}
	}
}

type fetched struct {
	uid   uint32
	flags []string
	date  string
	size  int64
}

// streamFetch issues `UID FETCH set (items BODY.PEEK[])` and calls body for
// every message with a reader limited to its octets. When the server sends
// flags or date after the body, the body is buffered first.
func (c *imapConn) streamFetch(set, items string, body func(fetched, io.Reader) error) (int, int64, error) {
	t := c.tag()
	fmt.Fprintf(c.bw, "%s UID FETCH %s (%s BODY.PEEK[])\r\n", t, set, items)
	if err := c.bw.Flush(); err != nil {
		return 0, 0, err
	}
	return c.readFetch(t, items, body)
}

// readFetch consumes the answer to a UID FETCH that was sent with tag t.
func (c *imapConn) readFetch(t, items string, body func(fetched, io.Reader) error) (int, int64, error) {
	var n int
	var total int64
	for {
		line, err := c.br.ReadString('\n')
		if err != nil {
			return n, total, err
		}
		if strings.HasPrefix(line, t+" ") {
			if !strings.HasPrefix(line[len(t)+1:], "OK") {
				return n, total, fmt.Errorf("FETCH: %s", strings.TrimSpace(line))
			}
			return n, total, nil
		}
		head := strings.TrimRight(line, "\r\n")
		open := strings.LastIndexByte(head, '{')
		if open < 0 || !strings.HasSuffix(head, "}") || !strings.Contains(head, " FETCH (") {
			continue
		}
		lit, err := strconv.ParseInt(head[open+1:len(head)-1], 10, 64)
		if err != nil {
			return n, total, fmt.Errorf("bad literal in %q", head)
		}
		f := parseFetchHead(head[:open])
		f.size = lit
		want := f.uid != 0 && (f.date != "" || !strings.Contains(items, "INTERNALDATE")) && (f.flags != nil || !strings.Contains(items, "FLAGS"))
		var r io.Reader = io.LimitReader(c.br, lit)
		if !want {
			b := make([]byte, lit)
			if _, err = io.ReadFull(c.br, b); err != nil {
				return n, total, err
			}
			tail, err := c.br.ReadString('\n')
			if err != nil {
				return n, total, err
			}
			f = parseFetchHead(head[:open] + "X" + tail)
			f.size = lit
			r = bytes.NewReader(b)
		}
		if body != nil {
			if err = body(f, r); err != nil {
				return n, total, err
			}
		}
		if _, err = io.Copy(io.Discard, r); err != nil {
			return n, total, err
		}
		if want {
			if _, err = c.br.ReadString('\n'); err != nil {
				return n, total, err
			}
		}
		n++
		total += lit
	}
}

func parseFetchHead(s string) fetched {
	var f fetched
	if i := strings.Index(s, "UID "); i >= 0 {
		f.uid = uint32(leadingInt(s[i+4:]))
	}
	if i := strings.Index(s, "FLAGS ("); i >= 0 {
		if j := strings.IndexByte(s[i:], ')'); j > 0 {
			f.flags = strings.Fields(s[i+7 : i+j])
			if f.flags == nil {
				f.flags = []string{}
			}
		}
	}
	if i := strings.Index(s, "INTERNALDATE \""); i >= 0 {
		if j := strings.IndexByte(s[i+14:], '"'); j > 0 {
			f.date = s[i+14 : i+14+j]
		}
	}
	return f
}

func leadingInt(s string) int64 {
	var n int64
	for i := 0; i < len(s) && s[i] >= '0' && s[i] <= '9'; i++ {
		n = n*10 + int64(s[i]-'0')
	}
	return n
}

const imapDate = "_2-Jan-2006 15:04:05 -0700"

func parseIMAPDate(s string) (time.Time, error) { return time.Parse(imapDate, s) }
