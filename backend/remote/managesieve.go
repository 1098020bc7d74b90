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

// DialManageSieve connects, protects the connection as the store's TLS mode
// says (RFC 5804 knows STARTTLS only: implicit TLS is for stores that offer it
// all the same), and logs in as its login mode says, by SASL. Errors are
// those of DialIMAP.
func DialManageSieve(ctx context.Context, t Target) (*TextConn, error) {
	return dialText(ctx, t, backend.ManageSieve, func(c *TextConn) []step {
		return []step{{"greeting", c.sieveGreeting}, {"STARTTLS", c.sieveTLS}, {"XCLIENT", c.sieveOrigin}, {stepLogin, c.sieveLogin}, {"capabilities", c.sieveTrim}}
	})
}

// sieveReply is the end of a reply: OK, NO or BYE with its code.
type sieveReply struct{ status, code, arg, text string }

func (r *sieveReply) Error() string { return fmt.Sprintf("%s (%s) %s", r.status, r.code, r.text) }

// sieveAnswer reads a whole reply: its lines of data, and how it ends.
func (c *TextConn) sieveAnswer() (lines []string, end sieveReply, err error) {
	for len(lines) < maxLines {
		l, err := c.sieveLine()
		if err != nil {
			return nil, end, err
		}
		if end, ok := sieveEnd(l); ok {
			return lines, end, nil
		}
		lines = append(lines, l)
	}
	return nil, end, fmt.Errorf("a reply of more than %d lines", maxLines)
}

// sieveEnd reads the line that ends a reply; ok is false for any other.
func sieveEnd(l string) (end sieveReply, ok bool) {
	word, rest, _ := strings.Cut(l, " ")
	switch w := strings.ToUpper(word); w {
	case "OK", "NO", "BYE":
		end = sieveReply{status: w, text: rest}
	default:
		return end, false
	}
	if strings.HasPrefix(end.text, "(") {
		code, text, _ := strings.Cut(end.text[1:], ")")
		code, end.arg, _ = strings.Cut(code, " ")
		end.code, end.text = strings.ToUpper(code), strings.TrimSpace(text)
	}
	return end, true
}

// sieveLine reads a line with its literals as quoted strings.
func (c *TextConn) sieveLine() (string, error) {
	var whole string
	for len(whole) < maxReply {
		l, err := c.line()
		if err != nil {
			return "", err
		}
		i := strings.LastIndexByte(l, '{')
		if i < 0 || !strings.HasSuffix(l, "}") {
			return whole + l, nil
		}
		n, err := strconv.ParseUint(strings.TrimSuffix(l[i+1:len(l)-1], "+"), 10, 31)
		if err != nil {
			return whole + l, nil
		}
		if n > maxReply {
			return "", fmt.Errorf("a literal of %d octets", n)
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(c.r, b); err != nil {
			return "", err
		}
		whole += l[:i] + quote(string(b))
	}
	return "", fmt.Errorf("a line of more than %d octets", maxReply)
}

// sieveGreeting reads the capabilities that the store greets with.
func (c *TextConn) sieveGreeting(context.Context) error {
	lines, end, err := c.sieveAnswer()
	switch {
	case err != nil:
		return err
	case end.status == "BYE":
		return c.loginRefused("TRYLATER", "", end.Error())
	case end.status != "OK":
		return &end
	}
	c.caps = lines
	return nil
}

// capability is the value of a capability; they are "NAME" or "NAME" "value".
func (c *TextConn) capability(name string) (value string, ok bool) {
	for _, l := range c.caps {
		parts := strings.SplitN(l, `"`, 4)
		if len(parts) >= 3 && strings.EqualFold(parts[1], name) {
			if len(parts) == 4 {
				value = strings.TrimSuffix(parts[3], `"`)
			}
			return value, true
		}
	}
	return "", false
}

// sieveTLS runs STARTTLS when the mode asks for it, the default; the store
// tells its capabilities again behind it (RFC 5804, 2.2).
func (c *TextConn) sieveTLS(ctx context.Context) error {
	if !c.plaintext() {
		return nil
	}
	if _, ok := c.capability("STARTTLS"); !ok {
		return fmt.Errorf("the store does not offer STARTTLS")
	}
	if err := c.send("STARTTLS"); err != nil {
		return err
	}
	if _, end, err := c.sieveAnswer(); err != nil {
		return err
	} else if end.status != "OK" {
		return &end
	}
	if err := c.startTLS(ctx); err != nil {
		return err
	}
	return c.sieveGreeting(ctx)
}

// sieveLogin is AUTHENTICATE with an initial response, as a literal when it is
// too long for a quoted string.
func (c *TextConn) sieveLogin(ctx context.Context) error {
	id, err := c.target.identity(ctx, backend.ManageSieve)
	if err != nil {
		return err
	}
	sasl, _ := c.capability("SASL")
	announced := strings.Fields(strings.ToUpper(sasl))
	mechanism, offered := id.mechanism(func(m string) bool { return slices.Contains(announced, m) })
	if !offered {
		return noMechanism(mechanism)
	}
	defer c.patience()()
	msg, afterwards := id.message(mechanism)
	if err := c.send(`AUTHENTICATE "` + mechanism + `" ` + sieveArg(msg)); err != nil {
		return err
	}
	end, err := c.sieveOutcome(afterwards)
	switch {
	case err != nil:
		return err
	case end.status == "OK":
		return nil
	case end.status == "BYE" && end.code == "":
		return &end
	}
	end.text = id.masked(end.text)
	err = c.loginRefused(end.code, end.arg, end.Error())
	c.target.tokenRefused(id, err)
	return err
}

// sieveOutcome reads how an AUTHENTICATE ends; a challenge, which is a string
// of its own, is answered once.
func (c *TextConn) sieveOutcome(answer string) (end sieveReply, err error) {
	for range 2 {
		l, err := c.sieveLine()
		if err != nil {
			return end, err
		}
		if end, ok := sieveEnd(l); ok {
			return end, nil
		}
		if err := c.send(sieveArg(answer)); err != nil {
			return end, err
		}
	}
	return end, fmt.Errorf("a challenge too many")
}

func sieveArg(s string) string {
	if len(s) > 1000 {
		return fmt.Sprintf("{%d+}\r\n%s", len(s), s)
	}
	return `"` + s + `"`
}

// sieveTrim keeps of the capabilities those that matter after login.
func (c *TextConn) sieveTrim(context.Context) error {
	c.caps = slices.DeleteFunc(c.caps, func(l string) bool {
		for _, name := range []string{`"SASL"`, `"STARTTLS"`, `"IMPLEMENTATION"`, `"OWNER"`, `"XCLIENT"`} {
			if len(l) >= len(name) && strings.EqualFold(l[:len(name)], name) {
				return true
			}
		}
		return false
	})
	return nil
}
