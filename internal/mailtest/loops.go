package mailtest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// renewIdle is how long one IDLE lasts at most (RFC 2177 asks for less than
// 30 minutes); short enough that a test sees some.
const renewIdle = 2 * time.Minute

// idle is one IDLE, from its begin to the listing of what came in it.
func (c *Checker) idle() error {
	if c.stopped() {
		return errStopped
	}
	s, tag := c.begin("IDLE")
	if err := s.w.send(tag + " IDLE\r\n"); err != nil {
		return c.ended(s, err)
	}
	if err := c.continued(s); err != nil {
		return err
	}
	renew := time.NewTimer(renewIdle)
	defer renew.Stop()
	select {
	case <-c.stopping:
	case <-renew.C:
	case <-s.grew:
	case <-s.lost:
		return c.ended(s, nil)
	}
	if err := c.leaveIdle(s); err != nil {
		return err
	}
	return c.listNew()
}

// continued waits for the server's "+".
func (c *Checker) continued(s *session) error {
	timeout := time.NewTimer(c.o.Limit)
	defer timeout.Stop()
	select {
	case <-s.plus:
		return nil
	case r := <-s.tagged:
		return fmt.Errorf("%w: %s", errWrong, r.raw)
	case <-s.lost:
		return c.ended(s, nil)
	case <-timeout.C:
		s.end()
		return fmt.Errorf("%w: no continuation", errWrong)
	}
}

// leaveIdle says DONE; the pause counts from here.
func (c *Checker) leaveIdle(s *session) error {
	c.mu.Lock()
	p := &c.report.Pauses[len(c.report.Pauses)-1]
	p.Command, p.Sent = "DONE", time.Now()
	c.mu.Unlock()
	if err := s.w.send("DONE\r\n"); err != nil {
		return c.ended(s, err)
	}
	r, err := c.finish(s, c.o.Limit)
	if err == nil && r.name != "OK" {
		err = fmt.Errorf("%w: IDLE: %s", errWrong, r.raw)
	}
	return err
}

// listNew asks for UID, flags and Message-ID of what has come.
func (c *Checker) listNew() error {
	c.mu.Lock()
	first := c.current.unlisted()
	n := len(c.current.slots)
	c.mu.Unlock()
	if first < 0 {
		return nil
	}
	return c.must("FETCH %d:%d (UID FLAGS BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])", first+1, n)
}

// readAndFlag is one command of a client at work.
func (c *Checker) readAndFlag() error {
	pace := time.NewTimer(c.o.Interval)
	defer pace.Stop()
	select {
	case <-c.stopping:
		return errStopped
	case <-pace.C:
	}
	c.mu.Lock()
	uids, exists := c.current.known(), len(c.current.slots)
	c.mu.Unlock()
	if c.rand.IntN(60) == 0 {
		return c.visit()
	}
	if c.o.AppendTo != "" && c.rand.IntN(40) == 0 {
		return c.appendOne()
	}
	if len(uids) == 0 {
		return c.must("NOOP")
	}
	uid := uids[c.rand.IntN(len(uids))]
	switch k := c.rand.IntN(10); {
	case k < 3:
		return c.must("UID FETCH %d (UID FLAGS BODY.PEEK[])", uid)
	case k < 4:
		return c.fetchRange(exists)
	case k < 7 && !c.o.ReadOnly:
		return c.flag(uid)
	case k < 8:
		return c.searchOwn()
	case k < 9:
		return c.listNew()
	}
	return c.must("NOOP")
}

// fetchRange asks by sequence numbers.
func (c *Checker) fetchRange(exists int) error {
	lo := 1 + c.rand.IntN(exists)
	hi := min(exists, lo+c.rand.IntN(20))
	return c.must("FETCH %d:%d (UID FLAGS)", lo, hi)
}

// flag sets or removes the client's keyword and journals it.
func (c *Checker) flag(uid uint32) error {
	sign, state := "+", ownSet
	if c.rand.IntN(3) == 0 {
		sign, state = "-", ownUnset
	}
	silent := ""
	if c.rand.IntN(2) == 0 {
		silent = ".SILENT"
	}
	c.mu.Lock()
	b := c.current
	b.msgs[uid].own = ownPending
	i := len(c.report.Writes)
	c.report.Writes = append(c.report.Writes, Write{Sent: time.Now(), Mailbox: b.name, UID: uid,
		Tag: "c" + strconv.Itoa(c.tags+1), Flags: sign + c.o.Keyword})
	c.mu.Unlock()
	err := c.must("UID STORE %d %sFLAGS%s (%s)", uid, sign, silent, c.o.Keyword)
	c.mu.Lock()
	defer c.mu.Unlock()
	m := b.msgs[uid]
	if err != nil {
		if m != nil {
			m.own = ownUnknown
		}
		return err
	}
	if m == nil || b.gone[uid] {
		return nil // an OK for a message that is gone says nothing
	}
	c.report.Writes[i].Acked = time.Now()
	m.own = state
	return nil
}

// searchOwn compares a search for the client's keyword with what it knows.
func (c *Checker) searchOwn() error {
	c.mu.Lock()
	b := c.current
	c.searched = nil
	before := len(b.slots)
	c.mu.Unlock()
	if err := c.must("UID SEARCH KEYWORD %s", c.o.Keyword); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(b.slots) != before {
		return nil
	}
	for uid, m := range b.msgs {
		is := slices.Contains(c.searched, uid)
		if m.own == ownSet && !is && !b.gone[uid] || m.own == ownUnset && is {
			c.addFault(fmt.Sprintf("%s: SEARCH KEYWORD %s and UID %d: found %v, acknowledged otherwise", b.name, c.o.Keyword, uid, is))
		}
	}
	return nil
}

// visit selects another mailbox, or the same one again.
func (c *Checker) visit() error {
	all := append([]string{c.o.Mailbox}, c.o.Others...)
	return c.selectBox(all[c.rand.IntN(len(all))])
}

// appendOne appends a message with an id of its own.
func (c *Checker) appendOne() error {
	c.appended++
	id := fmt.Sprintf("<appended.%d.%s.%d@mailferry.test>", c.appended, strings.ReplaceAll(c.o.Name, "@", "."), time.Now().UnixNano())
	msg := fmt.Sprintf("From: %s\r\nSubject: draft %d\r\nMessage-ID: %s\r\n\r\nAppended.\r\n", c.o.User, c.appended, id)
	line := fmt.Sprintf("APPEND %s (%s) {%d}", Quote(c.o.AppendTo), `\Seen`, len(msg))
	s, tag := c.begin(line)
	c.mu.Lock()
	i := len(c.report.Writes)
	c.report.Writes = append(c.report.Writes, Write{Sent: time.Now(), Tag: tag, Mailbox: c.o.AppendTo, Flags: `\Seen`, MessageID: id})
	c.mu.Unlock()
	if err := s.w.send(tag + " " + line + "\r\n"); err != nil {
		return c.ended(s, err)
	}
	if err := c.continued(s); err != nil {
		return err
	}
	if err := s.w.send(msg + "\r\n"); err != nil {
		return c.ended(s, err)
	}
	r, err := c.finish(s, c.o.Limit)
	if err != nil {
		return err
	}
	if r.name != "OK" {
		return fmt.Errorf("%w: APPEND: %s", errWrong, r.raw)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Writes[i].Acked = time.Now()
	if name, arg := r.code(); name == "APPENDUID" {
		_, uid, _ := strings.Cut(arg, " ")
		n, _ := strconv.ParseUint(uid, 10, 32)
		c.report.Writes[i].UID = uint32(n)
	}
	return nil
}
