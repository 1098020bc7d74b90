package mailtest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// session is one connection of a Checker. A reader goroutine takes every
// response at the moment it comes; at most one command is in progress.
type session struct {
	w      *wire
	lost   chan struct{} // closed by the reader at its end
	tagged chan reply    // tagged responses
	plus   chan struct{} // continuations
	grew   chan struct{} // an EXISTS grew the mailbox; capacity 1
	close  sync.Once

	// guarded by Checker.mu
	command string // in progress, upper case; "" between commands
	tag     string
	err     error // why it ended
	byeOK   bool  // BYE came between commands
	bye     bool
	leaving bool // we sent LOGOUT
}

// connect opens a session up to the listed mailbox.
func (c *Checker) connect() error {
	w, err := dialWire(c.o.Addr, c.o.TLS, c.o.Limit)
	if err != nil {
		return err
	}
	greeting, err := w.response()
	if err != nil || !strings.HasPrefix(greeting, "* OK") {
		w.close()
		return fmt.Errorf("greeting %q: %v", greeting, err)
	}
	s := &session{w: w, lost: make(chan struct{}), tagged: make(chan reply, 1), plus: make(chan struct{}, 1),
		grew: make(chan struct{}, 1)}
	c.mu.Lock()
	c.session, c.current = s, nil
	c.mu.Unlock()
	go c.read(s)
	if err := c.open(); err != nil {
		s.end()
		<-s.lost
		return err
	}
	return nil
}

func (c *Checker) open() error {
	r, err := c.command("LOGIN %s %s", Quote(c.o.User), Quote(c.o.Password))
	if err != nil {
		return err
	}
	if r.name != "OK" {
		return fmt.Errorf("login refused: %s", r.raw) // it may be temporary
	}
	if c.o.Enable != "" {
		if err := c.must("ENABLE %s", c.o.Enable); err != nil {
			return err
		}
	}
	return c.selectBox(c.o.Mailbox)
}

// selectBox selects a mailbox and compares it with what is known of it.
func (c *Checker) selectBox(name string) error {
	c.mu.Lock()
	c.current, c.validity, c.next, c.existing = nil, 0, 0, 0
	c.mu.Unlock()
	if err := c.must("SELECT %s", Quote(name)); err != nil {
		return err
	}
	c.mu.Lock()
	b := c.boxes[name]
	if b == nil {
		b = newBox(name, c.o.Keyword, c.o.NoExpunges)
		c.boxes[name] = b
	}
	c.current = b
	if err := b.opened(c.existing, c.validity, c.next); err != nil {
		c.addFault(err.Error())
	}
	n := len(b.slots)
	c.mu.Unlock()
	if n > 0 {
		if err := c.must("FETCH 1:* (UID FLAGS)"); err != nil {
			return err
		}
	}
	c.mu.Lock()
	if err := b.settled(); err != nil {
		c.addFault(err.Error())
	}
	c.mu.Unlock()
	return c.listNew()
}

// must is command for one that has to end in OK.
func (c *Checker) must(format string, args ...any) error {
	r, err := c.command(format, args...)
	if err == nil && r.name != "OK" {
		err = fmt.Errorf("%w: %s: %s", errWrong, fmt.Sprintf(format, args...), r.raw)
	}
	return err
}

// command sends a command and waits for its tagged response.
func (c *Checker) command(format string, args ...any) (reply, error) {
	line := fmt.Sprintf(format, args...)
	s, tag := c.begin(line)
	if err := s.w.send(tag + " " + line + "\r\n"); err != nil {
		return reply{}, c.ended(s, err)
	}
	return c.finish(s, c.o.Limit)
}

// begin notes that a command is in progress and gives it a tag.
func (c *Checker) begin(line string) (*session, string) {
	word := strings.Fields(strings.ToUpper(line) + " -")
	name := word[0]
	if name == "UID" {
		name += " " + word[1]
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tags++
	s := c.session
	s.command, s.tag = name, "c"+strconv.Itoa(c.tags)
	c.report.Pauses = append(c.report.Pauses, Pause{Command: name, Tag: s.tag, Sent: time.Now()})
	return s, s.tag
}

// finish waits for the tagged response of the command in progress.
func (c *Checker) finish(s *session, limit time.Duration) (reply, error) {
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case r := <-s.tagged:
		return r, nil
	case <-s.lost:
		select { // the answer may have come just before the end
		case r := <-s.tagged:
			return r, nil
		default:
		}
		return reply{}, c.ended(s, nil)
	case <-timeout.C:
		c.mu.Lock()
		name := s.command
		c.mu.Unlock()
		s.end()
		<-s.lost
		return reply{}, fmt.Errorf("%w: no answer to %s within %v", errWrong, name, limit)
	}
}

// ended says why a session is over.
func (c *Checker) ended(s *session, err error) error {
	s.end()
	<-s.lost
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.err != nil {
		err = s.err
	}
	return fmt.Errorf("%w: %v (in %q)", errLost, err, s.command)
}

func (s *session) end() { s.close.Do(func() { s.w.close() }) }

// read takes responses until the connection ends.
func (c *Checker) read(s *session) {
	defer close(s.lost)
	for {
		raw, err := s.w.responseBy(time.Time{})
		c.mu.Lock()
		if err != nil {
			if raw != "" && !errors.Is(err, net.ErrClosed) && !c.o.Reconnect {
				c.addFault(fmt.Sprintf("cut inside a response %.80q: %v", raw, err))
			}
			if errors.Is(err, io.EOF) && s.bye {
				err = errors.New("BYE")
			}
			s.err = err
			c.mu.Unlock()
			return
		}
		if err := c.take(s, raw); err != nil {
			c.addFault(fmt.Sprintf("%v: %.200q\n%s", err, raw, s.w.transcript()))
		}
		c.mu.Unlock()
	}
}

// logout ends the present session politely, when there is one.
func (c *Checker) logout() {
	c.mu.Lock()
	s := c.session
	if s != nil {
		s.leaving = true
	}
	c.mu.Unlock()
	if s == nil {
		return
	}
	select {
	case <-s.lost:
		return
	default:
	}
	if r, err := c.command("LOGOUT"); err != nil || r.name != "OK" {
		if !c.o.Reconnect {
			c.fault("LOGOUT: %v %s", err, r.raw)
		}
	}
	s.end()
	<-s.lost
}
