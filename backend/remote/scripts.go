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
	s := NewScriptClient(ctx, c)
	defer s.Close()
	return s.Scripts()
}

// ScriptClient reads and changes a user's Sieve scripts over a ManageSieve
// connection (RFC 5804). It is used by one goroutine. After an error without a
// *ScriptError it is broken.
type ScriptClient struct {
	c    *TextConn
	ctx  context.Context
	done func()
}

// NewScriptClient takes a connection over on which a user is logged in. ctx ends
// every call.
func NewScriptClient(ctx context.Context, c *TextConn) *ScriptClient {
	s := &ScriptClient{c: c, ctx: ctx, done: c.link.watch(ctx)}
	c.link.setTimeout(ProgressTimeout)
	return s
}

// Close says LOGOUT and closes the connection.
func (s *ScriptClient) Close() {
	_ = s.c.send("LOGOUT")
	s.done()
	_ = s.c.Close()
}

// ScriptError is the store's refusal of a script: it does not understand it, or
// has no room.
type ScriptError struct{ Code, Text string }

func (e *ScriptError) Error() string {
	if e.Code != "" {
		return "(" + e.Code + ") " + e.Text
	}
	return e.Text
}

func (s *ScriptClient) fail(step string, err error) error {
	if backend.KindOf(err) != backend.KindBug {
		return err
	}
	return s.c.target.unavailable(backend.ManageSieve, step, cause(s.ctx, err))
}

// Extensions are the capabilities that scripts of the store may require.
func (s *ScriptClient) Extensions() []string {
	value, _ := s.c.capability("SIEVE")
	return strings.Fields(value)
}

// List names the scripts, without their texts.
func (s *ScriptClient) List() (list []backend.SieveScript, err error) {
	if err := s.c.send("LISTSCRIPTS"); err != nil {
		return nil, s.fail("LISTSCRIPTS", err)
	}
	for {
		l, err := s.c.sieveLine()
		if err != nil {
			return nil, s.fail("LISTSCRIPTS", err)
		}
		if l == "" || l[0] != '"' {
			if word, _, _ := strings.Cut(l, " "); strings.EqualFold(word, "OK") {
				return list, nil
			}
			return nil, s.fail("LISTSCRIPTS", fmt.Errorf("reply %.80q", l))
		}
		name, rest := unquote(l)
		list = append(list, backend.SieveScript{Name: name, Active: strings.EqualFold(strings.TrimSpace(rest), "ACTIVE")})
		if len(list) > maxScripts {
			return nil, s.fail("LISTSCRIPTS", fmt.Errorf("more than %d scripts", maxScripts))
		}
	}
}

// Scripts reads all scripts, as the function of this name does.
func (s *ScriptClient) Scripts() (list []backend.SieveScript, large []string, err error) {
	if list, err = s.List(); err != nil {
		return nil, nil, err
	}
	for i := range list {
		text, tooLarge, err := s.c.script(list[i].Name)
		if err != nil {
			return nil, nil, s.fail("GETSCRIPT", err)
		}
		if tooLarge {
			large = append(large, list[i].Name)
		}
		list[i].Text = text
	}
	list = slices.DeleteFunc(list, func(s backend.SieveScript) bool { return slices.Contains(large, s.Name) })
	slices.SortFunc(list, func(x, y backend.SieveScript) int { return strings.Compare(x.Name, y.Name) })
	return list, large, nil
}

// Check has the store say whether it could run a script, without keeping it; ok is
// false where it does not know CHECKSCRIPT. A *ScriptError is its refusal.
func (s *ScriptClient) Check(text []byte) (ok bool, err error) {
	if _, ok := s.c.capability("VERSION"); !ok {
		return false, nil
	}
	return true, s.tell("CHECKSCRIPT", fmt.Sprintf("CHECKSCRIPT {%d+}\r\n%s", len(text), text))
}

// Put keeps a script under a name, in the place of one that is there.
func (s *ScriptClient) Put(name string, text []byte) error {
	return s.tell("PUTSCRIPT", fmt.Sprintf("PUTSCRIPT %s {%d+}\r\n%s", scriptName(name), len(text), text))
}

// Activate makes a script the active one; an empty name: none is.
func (s *ScriptClient) Activate(name string) error {
	return s.tell("SETACTIVE", "SETACTIVE "+scriptName(name))
}

// Delete removes a script that is not active.
func (s *ScriptClient) Delete(name string) error {
	return s.tell("DELETESCRIPT", "DELETESCRIPT "+scriptName(name))
}

// tell runs a command; a *ScriptError is the store's refusal.
func (s *ScriptClient) tell(step, line string) error {
	if err := s.c.send(line); err != nil {
		return s.fail(step, err)
	}
	_, end, err := s.c.sieveAnswer()
	switch {
	case err != nil:
		return s.fail(step, err)
	case end.status == "BYE":
		return s.fail(step, &end)
	case end.status != "OK":
		text := end.text
		if strings.HasPrefix(text, `"`) {
			text, _ = unquote(text)
		}
		return &ScriptError{end.code, strings.Join(strings.Fields(text), " ")}
	}
	return nil
}

// scriptName is a name as an argument.
func scriptName(name string) string {
	if quotable(name) {
		return quote(name)
	}
	return fmt.Sprintf("{%d+}\r\n%s", len(name), name)
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
	if err := c.send("GETSCRIPT " + scriptName(name)); err != nil {
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
