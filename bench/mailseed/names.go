package main

// Mailbox names: quoting, modified UTF-7, prefix and separator.

import (
	"encoding/base64"
	"strings"
	"unicode/utf16"
)

func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// ---- mailbox names ----

var mutf7 = base64.NewEncoding("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,").WithPadding(base64.NoPadding)

func encMUTF7(s string) string {
	var out strings.Builder
	var run []rune
	flush := func() {
		if len(run) == 0 {
			return
		}
		u := utf16.Encode(run)
		b := make([]byte, 0, 2*len(u))
		for _, x := range u {
			b = append(b, byte(x>>8), byte(x))
		}
		out.WriteString("&" + mutf7.EncodeToString(b) + "-")
		run = run[:0]
	}
	for _, r := range s {
		if r >= 0x20 && r <= 0x7e {
			flush()
			if r == '&' {
				out.WriteString("&-")
			} else {
				out.WriteRune(r)
			}
		} else {
			run = append(run, r)
		}
	}
	flush()
	return out.String()
}

func decMUTF7(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '&' {
			out.WriteByte(s[i])
			continue
		}
		j := strings.IndexByte(s[i:], '-')
		if j < 0 {
			out.WriteString(s[i:])
			break
		}
		if j == 1 {
			out.WriteByte('&')
		} else if b, err := mutf7.DecodeString(s[i+1 : i+j]); err == nil {
			u := make([]uint16, len(b)/2)
			for k := range u {
				u[k] = uint16(b[2*k])<<8 | uint16(b[2*k+1])
			}
			out.WriteString(string(utf16.Decode(u)))
		} else {
			out.WriteString(s[i : i+j+1])
		}
		i += j
	}
	return out.String()
}

type naming struct{ prefix, sep string }

func (c *imapConn) naming() (naming, error) {
	n := naming{"", "/"}
	if c.caps["NAMESPACE"] {
		rs, err := c.cmd("NAMESPACE")
		if err != nil {
			return n, err
		}
		for _, r := range rs {
			if r.name == "NAMESPACE" && len(r.args) > 0 && r.args[0].kind == 'l' && len(r.args[0].l) > 0 {
				p := r.args[0].l[0].l
				if len(p) >= 2 {
					n.prefix = p[0].s
					if p[1].kind != 'n' {
						n.sep = p[1].s
					}
				}
			}
		}
		return n, nil
	}
	rs, err := c.cmd(`LIST "" ""`)
	if err != nil {
		return n, err
	}
	for _, r := range rs {
		if r.name == "LIST" && len(r.args) >= 2 && r.args[1].kind != 'n' {
			n.sep = r.args[1].s
		}
	}
	return n, nil
}

// raw turns a path of UTF-8 components into the server's mailbox name.
func (n naming) raw(path []string) string {
	if len(path) == 1 && strings.EqualFold(path[0], "INBOX") {
		return "INBOX"
	}
	enc := make([]string, len(path))
	for i, p := range path {
		enc[i] = encMUTF7(p)
	}
	s := strings.Join(enc, n.sep)
	if path[0] == "INBOX" && n.prefix == "INBOX"+n.sep {
		return s
	}
	return n.prefix + s
}

func (n naming) path(raw string) []string {
	if strings.EqualFold(raw, "INBOX") {
		return []string{"INBOX"}
	}
	raw = strings.TrimPrefix(raw, n.prefix)
	var out []string
	for _, p := range strings.Split(raw, n.sep) {
		out = append(out, decMUTF7(p))
	}
	return out
}

// ---- FETCH stream with bodies passed on while they arrive ----
