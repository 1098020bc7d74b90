package proxy

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// model is an IMAP store at the other end of a tracker: it answers commands in
// order, some at once and some later, and sends news when it likes. It knows
// the mailbox, so that what the client was told can be checked.
type model struct {
	rnd     *rand.Rand
	in      []byte
	queue   []string // commands not answered
	idle    string   // tag
	uids    []int
	nextUID int
	out     bytes.Buffer
	seen    []string // commands, with their tags
}

// step takes what arrived and does one thing.
func (m *model) step() {
	for {
		i := bytes.IndexByte(m.in, '\n')
		if i < 0 {
			break
		}
		l := strings.TrimRight(string(m.in[:i]), "\r\n")
		m.in = m.in[i+1:]
		m.queue = append(m.queue, l)
		m.seen = append(m.seen, l)
	}
	if m.rnd.IntN(4) == 0 && (len(m.queue) > 0 || m.idle != "") {
		m.uids = append(m.uids, m.nextUID)
		m.nextUID += 1 + m.rnd.IntN(3)
		fmt.Fprintf(&m.out, "* %d EXISTS\r\n", len(m.uids))
	}
	if len(m.queue) > 0 && m.rnd.IntN(3) > 0 {
		l := m.queue[0]
		m.queue = m.queue[1:]
		m.answer(l)
	}
}

func (m *model) answer(l string) {
	tag, cmd, _ := strings.Cut(l, " ")
	switch {
	case m.idle != "":
		if l != "DONE" {
			panic("in IDLE: " + l)
		}
		fmt.Fprintf(&m.out, "%s OK idle done\r\n", m.idle)
		m.idle = ""
		return
	case cmd == "IDLE":
		m.idle = tag
		m.out.WriteString("+ idling\r\n")
		return
	case l == "DONE":
		panic("DONE without IDLE")
	case strings.HasSuffix(cmd, ":* (UID)"):
		var from int
		fmt.Sscanf(cmd, "FETCH %d:", &from)
		for s := min(from, len(m.uids)); s <= len(m.uids); s++ {
			fmt.Fprintf(&m.out, "* %d FETCH (UID %d)\r\n", s, m.uids[s-1])
		}
	case strings.HasPrefix(cmd, "FETCH"):
		fmt.Fprintf(&m.out, "* 1 FETCH (BODY[] {7}\r\n%s OK)\r\n)\r\n", tag[:min(2, len(tag))]+"x"[:max(0, 2-len(tag))])
	case strings.HasPrefix(cmd, "SELECT"):
		fmt.Fprintf(&m.out, "* %d EXISTS\r\n* OK [UIDVALIDITY 3] x\r\n", len(m.uids))
	case strings.HasPrefix(cmd, "NOOP") && len(m.uids) > 1 && m.rnd.IntN(2) == 0:
		i := m.rnd.IntN(len(m.uids))
		m.uids = append(m.uids[:i:i], m.uids[i+1:]...)
		fmt.Fprintf(&m.out, "* %d EXPUNGE\r\n", i+1)
	}
	fmt.Fprintf(&m.out, "%s OK done\r\n", tag)
}

// TestTrackerInterleavings: a client that works, a store that answers when it
// likes, and holds that come, go, flip and are taken back at any moment. At
// each rest the view must be what the client was told, each command must be
// answered exactly once, and at the end the session must run.
func TestTrackerInterleavings(t *testing.T) {
	runs := 1000
	if testing.Short() {
		runs = 200
	}
	flips := 0
	for seed := range runs {
		n, err := interleave(t, uint64(seed))
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		flips += n
	}
	if flips < runs {
		t.Errorf("%d runs had %d flips only: the test tests little", runs, flips)
	}
}

// actor is a client that sends commands, one or several at a time, and goes
// into IDLE now and then.
type actor struct {
	rnd  *rand.Rand
	n    int
	idle string
	sent []string
}

func (a *actor) next() string {
	if a.idle != "" {
		a.idle = ""
		return "DONE\r\n"
	}
	a.n++
	tag := fmt.Sprintf("c%d", a.n)
	a.sent = append(a.sent, tag)
	switch a.rnd.IntN(4) {
	case 0:
		a.idle = tag
		return tag + " IDLE\r\n"
	case 1:
		return tag + " FETCH 1 (BODY[])\r\n"
	}
	return tag + " NOOP\r\n"
}

func interleave(t *testing.T, seed uint64) (flips int, err error) {
	rnd := rand.New(rand.NewPCG(seed, 7))
	f := &feeder{t: t, tr: testTracker()}
	m := &model{rnd: rnd, nextUID: 10, uids: []int{1, 5, 6}}
	a := &actor{rnd: rnd, sent: []string{"c0"}}
	pending := []byte("c0 SELECT INBOX\r\n") // of the client, on its way
	holding := false
	do := func(step func(*output)) {
		var out output
		step(&out)
		f.take(&out)
		f.fromClient(nil)
	}
	for i := range 400 {
		last := i > 340
		switch k := rnd.IntN(12); {
		case k < 3 && !last:
			pending = append(pending, a.next()...)
		case k < 6 && len(pending) > 0:
			n := 1 + rnd.IntN(len(pending))
			f.fromClient(pending[:n])
			pending = pending[n:]
		case k == 6 && !holding && !last:
			holding = true
			do(f.tr.hold)
		case k == 7 && holding || last && holding:
			if f.tr.frozen && f.tr.sel.on {
				if err := checkView(f.tr, m); err != nil {
					return flips, err
				}
				if rnd.IntN(2) == 0 { // flip: a new store with the same mailbox
					m = &model{rnd: rnd, nextUID: m.nextUID, uids: m.uids, seen: m.seen}
					f.down = nil
					f.backend.Reset()
					f.tr.replaced()
					flips++
				}
			}
			holding = false
			do(f.tr.release)
		}
		m.in = append(m.in, f.backend.Bytes()...)
		f.backend.Reset()
		m.step()
		if out := m.out.Bytes(); len(out) > 0 {
			n := 1 + rnd.IntN(len(out))
			f.fromBackend(append([]byte(nil), out[:n]...))
			m.out.Next(n)
		}
		if f.fatal != nil {
			return flips, f.fatal
		}
	}
	return flips, settleDown(f, m, a, pending)
}

// checkView compares what the tracker would hand to the new store with what
// the old one has told.
func checkView(tr *tracker, m *model) error {
	if v := tr.verdict(); v != "" {
		return fmt.Errorf("not attachable: %s, view %v of %d", v, tr.view, tr.sel.exists)
	}
	if int(tr.view.n) > len(m.uids) {
		return fmt.Errorf("view has %d messages, the mailbox %d", tr.view.n, len(m.uids))
	}
	for i := range tr.view.n {
		if tr.view.uid(i+1) != uint32(m.uids[i]) {
			return fmt.Errorf("message %d: %d, want %d", i+1, tr.view.uid(i+1), m.uids[i])
		}
	}
	return nil
}

// settleDown lets everything finish and counts the answers.
func settleDown(f *feeder, m *model, a *actor, pending []byte) error {
	if a.idle != "" {
		pending = append(pending, "DONE\r\n"...)
	}
	f.fromClient(pending)
	for range 2000 {
		m.in = append(m.in, f.backend.Bytes()...)
		f.backend.Reset()
		m.step()
		f.fromBackend(append([]byte(nil), m.out.Bytes()...))
		m.out.Reset()
	}
	if f.fatal != nil || len(f.up)+len(f.down)+len(m.queue) > 0 || f.tr.gated {
		return fmt.Errorf("stuck: up %q, down %q, gated %v, idle %v, flight %v, store %v", f.up, f.down, f.tr.gated, f.tr.idle, f.tr.flight, m.queue)
	}
	text := f.client.String()
	for _, tag := range a.sent {
		if n := strings.Count("\n"+text, "\n"+tag+" OK "); n != 1 {
			return fmt.Errorf("%s was answered %d times in\n%s", tag, n, text)
		}
	}
	if strings.Contains(text, "(UID ") || strings.Contains(text, "\nmf") {
		return fmt.Errorf("the client saw our questions:\n%s", text)
	}
	return nil
}
