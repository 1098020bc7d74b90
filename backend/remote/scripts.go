package remote

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"mailferry/backend"
)

// maxScripts bounds the scripts of a user.
const maxScripts = 1000

// Scripts reads all Sieve scripts of the user (RFC 5804), which a ManageSieve
// connection has to be logged in for, in the order of their names. large names
// scripts of more than backend.MaxSideValue octets, which are left out. The
// connection is closed.
func Scripts(ctx context.Context, c *TextConn) (list []backend.SieveScript, large []string, err error) {
	defer c.Close()
	defer c.link.watch(ctx)()
	c.link.setTimeout(ProgressTimeout)
	fail := func(step string, err error) error {
		if backend.KindOf(err) != backend.KindBug {
			return err
		}
		return c.target.unavailable(backend.ManageSieve, step, cause(ctx, err))
	}
	if err := c.send("LISTSCRIPTS"); err != nil {
		return nil, nil, fail("LISTSCRIPTS", err)
	}
	for {
		l, err := c.sieveLine()
		if err != nil {
			return nil, nil, fail("LISTSCRIPTS", err)
		}
		if l == "" || l[0] != '"' {
			if word, _, _ := strings.Cut(l, " "); strings.EqualFold(word, "OK") {
				break
			}
			return nil, nil, fail("LISTSCRIPTS", fmt.Errorf("reply %.80q", l))
		}
		name, rest := unquote(l)
		list = append(list, backend.SieveScript{Name: name, Active: strings.EqualFold(strings.TrimSpace(rest), "ACTIVE")})
		if len(list) > maxScripts {
			return nil, nil, fail("LISTSCRIPTS", fmt.Errorf("more than %d scripts", maxScripts))
		}
	}
	for i := range list {
		text, tooLarge, err := c.script(list[i].Name)
		if err != nil {
			return nil, nil, fail("GETSCRIPT", err)
		}
		if tooLarge {
			large = append(large, list[i].Name)
		}
		list[i].Text = text
	}
	list = slices.DeleteFunc(list, func(s backend.SieveScript) bool { return slices.Contains(large, s.Name) })
	slices.SortFunc(list, func(x, y backend.SieveScript) int { return strings.Compare(x.Name, y.Name) })
	_ = c.send("LOGOUT")
	return list, large, nil
}

// unquote reads a quoted string at the start of s.
func unquote(s string) (value, rest string) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case s[i] == '"':
			return b.String(), s[i+1:]
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), ""
}

// script is GETSCRIPT.
func (c *TextConn) script(name string) (text []byte, large bool, err error) {
	arg := quote(name)
	if !quotable(name) {
		arg = fmt.Sprintf("{%d+}\r\n%s", len(name), name)
	}
	if err := c.send("GETSCRIPT " + arg); err != nil {
		return nil, false, err
	}
	l, err := c.line()
	if err != nil {
		return nil, false, err
	}
	switch {
	case strings.HasPrefix(l, `"`):
		value, _ := unquote(l)
		text = []byte(value)
	case strings.HasPrefix(l, "{") && strings.HasSuffix(l, "}"):
		n, err := strconv.ParseUint(strings.TrimSuffix(l[1:len(l)-1], "+"), 10, 31)
		if err != nil {
			return nil, false, fmt.Errorf("reply %.80q", l)
		}
		if large = n > backend.MaxSideValue; large {
			_, err = io.CopyN(io.Discard, c.r, int64(n))
		} else {
			text = make([]byte, n)
			_, err = io.ReadFull(c.r, text)
		}
		if err == nil {
			l, err = c.line()
		}
		if err == nil && l != "" {
			err = fmt.Errorf("%.80q behind a script", l)
		}
		if err != nil {
			return nil, false, err
		}
	default:
		return nil, false, fmt.Errorf("script %q: reply %.80q", name, l)
	}
	_, end, err := c.sieveAnswer()
	if err == nil && end.status != "OK" {
		err = &end
	}
	return text, large, err
}
