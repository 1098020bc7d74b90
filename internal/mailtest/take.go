package mailtest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// take checks one response and brings the model up to date. The caller holds
// mu.
func (c *Checker) take(s *session, raw string) error {
	r, err := parseReply(raw)
	if err != nil {
		return err
	}
	switch r.tag {
	case "+":
		if s.command == "" {
			return errors.New("continuation with no command in progress")
		}
		select {
		case s.plus <- struct{}{}:
		default:
			return errors.New("a second continuation")
		}
		return nil
	case "*":
		return c.untagged(s, r)
	}
	return c.takeTagged(s, r)
}

func (c *Checker) takeTagged(s *session, r reply) error {
	if s.command == "" || r.tag != s.tag {
		return fmt.Errorf("tag %s, in progress is %q %s", r.tag, s.tag, s.command)
	}
	if r.name != "OK" && r.name != "NO" && r.name != "BAD" {
		return errors.New("tagged response without a status")
	}
	p := &c.report.Pauses[len(c.report.Pauses)-1]
	p.Took = time.Since(p.Sent)
	err := c.status(s, r)
	s.command = ""
	s.tagged <- r
	return err
}

// untagged dispatches an untagged response.
func (c *Checker) untagged(s *session, r reply) error {
	now := time.Now()
	switch r.name {
	case "OK", "NO":
		return c.status(s, r)
	case "BAD", "PREAUTH":
		return fmt.Errorf("untagged %s", r.name)
	case "BYE":
		s.bye = true
		return c.byeTaken(s, r)
	case "EXISTS":
		return c.existsTaken(s, r.num, now)
	case "RECENT":
		if b := c.current; b != nil && s.command != "SELECT" && int(r.num) > len(b.slots) {
			return fmt.Errorf("RECENT %d of %d", r.num, len(b.slots))
		}
		return nil
	case "EXPUNGE", "VANISHED":
		return c.gone(s, r)
	case "FETCH":
		f, err := parseFetch(r.rest)
		if err != nil {
			return err
		}
		if c.current == nil {
			return errors.New("FETCH with nothing selected")
		}
		return c.current.fetch(r.num, f)
	case "SEARCH":
		if c.current == nil || !strings.HasSuffix(s.command, "SEARCH") {
			return errors.New("SEARCH nobody asked for")
		}
		found, err := c.current.search(r.rest, s.command == "UID SEARCH")
		c.searched = append(c.searched, found...)
		return err
	case "CAPABILITY", "FLAGS", "LIST", "LSUB", "STATUS", "ENABLED", "ID", "NAMESPACE":
		return nil
	}
	return errors.New("unknown response")
}

// status looks at the response code of OK, NO and tagged responses.
func (c *Checker) status(s *session, r reply) error {
	name, arg := r.code()
	n64, err := strconv.ParseUint(arg, 10, 32)
	n := uint32(n64)
	switch name {
	case "UIDVALIDITY":
		if err != nil || n == 0 {
			return errors.New("bad UIDVALIDITY")
		}
		if c.current != nil && n != c.current.validity {
			return fmt.Errorf("UIDVALIDITY was %d", c.current.validity)
		}
		c.validity = n
	case "UIDNEXT":
		if err != nil || n == 0 {
			return errors.New("bad UIDNEXT")
		}
		c.next = n
		if c.current != nil {
			return c.current.uidnext(n)
		}
	case "CLOSED":
		c.existing = 0
	case "APPENDUID", "COPYUID":
		if s.command != "APPEND" && !strings.HasSuffix(s.command, "COPY") && !strings.HasSuffix(s.command, "MOVE") {
			return fmt.Errorf("%s for %s", name, s.command)
		}
	}
	return nil
}

// existsTaken takes an EXISTS: of the mailbox being selected, or of the
// selected one.
func (c *Checker) existsTaken(s *session, n uint32, now time.Time) error {
	if s.command == "SELECT" && c.current == nil {
		if n < c.existing {
			return fmt.Errorf("EXISTS %d after %d", n, c.existing)
		}
		c.existing = n
		return nil
	}
	if c.current == nil {
		return errors.New("EXISTS with nothing selected")
	}
	before := len(c.current.slots)
	err := c.current.exists(n, s.command == "IDLE", now)
	if len(c.current.slots) > before {
		select {
		case s.grew <- struct{}{}:
		default:
		}
	}
	return err
}

// gone takes EXPUNGE and VANISHED, which may not come at any time (RFC 3501,
// section 7.4.1; RFC 7162, section 3.2.10.2).
func (c *Checker) gone(s *session, r reply) error {
	if c.current == nil {
		return fmt.Errorf("%s with nothing selected", r.name)
	}
	if set, ok := strings.CutPrefix(r.rest, "(EARLIER) "); ok && r.name == "VANISHED" {
		if s.command != "UID FETCH" {
			return fmt.Errorf("VANISHED (EARLIER) in %q", s.command)
		}
		return c.current.vanished(set, true)
	}
	switch s.command {
	case "":
		return fmt.Errorf("%s with no command in progress", r.name)
	case "FETCH", "STORE", "SEARCH":
		return fmt.Errorf("%s during %s", r.name, s.command)
	}
	qresync := strings.EqualFold(c.o.Enable, "QRESYNC")
	if qresync != (r.name == "VANISHED") {
		return fmt.Errorf("%s with QRESYNC enabled: %v", r.name, qresync)
	}
	if r.name == "VANISHED" {
		return c.current.vanished(r.rest, false)
	}
	return c.current.expunge(r.num)
}

// byeTaken decides whether a BYE was clean: at a command boundary, IDLE being
// one because the client has nothing to lose there.
func (c *Checker) byeTaken(s *session, r reply) error {
	if s.leaving {
		return nil
	}
	s.byeOK = s.command == "" || s.command == "IDLE"
	c.report.Byes = append(c.report.Byes, r.raw)
	switch {
	case c.o.Reconnect, c.o.AllowBye && s.byeOK:
		return nil
	case c.o.AllowBye:
		return fmt.Errorf("BYE during %s", s.command)
	}
	return errors.New("BYE")
}
