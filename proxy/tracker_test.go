package proxy

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"mailferry/internal/line"
)

func testTracker() *tracker {
	p := newPolicy([]string{"CONDSTORE"}, testCaps)
	p.has["X"] = true
	return &tracker{policy: p, tag: "mf"}
}

// feeder offers octets to a tracker in pieces, as the relay does, and collects
// what it wants sent.
type feeder struct {
	t               *testing.T
	tr              *tracker
	up, down        []byte // not used yet
	client, backend bytes.Buffer
	frozen          bool
	fatal           error
}

func (f *feeder) take(out *output) {
	for _, b := range out.client {
		f.client.Write(b)
	}
	for _, b := range out.backend {
		f.backend.Write(b)
	}
	f.frozen = f.frozen || out.frozen
	if out.fatal != nil {
		f.fatal = out.fatal
	}
	f.client.Write(f.tr.takeInject())
}

func (f *feeder) fromClient(p []byte) {
	f.up = append(f.up, p...)
	for {
		var out output
		n, _ := f.tr.fromClient(f.up, &out)
		f.take(&out)
		f.up = f.up[n:]
		if n == 0 || f.fatal != nil {
			return
		}
	}
}

func (f *feeder) fromBackend(p []byte) {
	f.down = append(f.down, p...)
	var out output
	n := f.tr.fromBackend(f.down, &out)
	f.take(&out)
	f.down = append([]byte(nil), f.down[n:]...)
	f.fromClient(nil) // what waited
}

// dialogue is what the two sides say in turn: lines of the client begin with
// C, of the store with S; "|" stands for CRLF within a line.
type dialogue []string

func (d dialogue) each(fn func(client bool, octets []byte)) {
	for _, l := range d {
		fn(l[0] == 'C', []byte(strings.ReplaceAll(l[2:], "|", "\r\n")))
	}
}

var dialogues = map[string]dialogue{
	"select and fetch": {"C a SELECT INBOX|", "S * 3 EXISTS|* OK [UIDVALIDITY 5] x|* OK [HIGHESTMODSEQ 9] x|a OK [READ-WRITE] done|",
		"C b FETCH 1:* (FLAGS BODY[])|", "S * 1 FETCH (FLAGS (\\Seen) BODY[] {12}|b OK no no|)|* 2 FETCH (BODY[] {0}|)|* 2 EXPUNGE|b OK done|"},
	"examine literal":   {"C a EXAMINE {5}|", "S + go|", "C INBOX|", "S * OK [UIDVALIDITY 7] x|* 0 EXISTS|a OK done|"},
	"select literal+":   {"C a SELECT {5+}|INBOX (CONDSTORE)|", "S * OK [UIDVALIDITY 7] x|* 1 EXISTS|a OK done|"},
	"refused literal":   {"C a APPEND INBOX {5}|", "S a NO [OVERQUOTA] no|", "C b NOOP|", "S b OK done|"},
	"append":            {"C a APPEND \"In {x}\" (\\Seen) {10}|", "S + go|", "C 0123|5678|b NOOP|", "S a OK [APPENDUID 1 2] done|b OK done|"},
	"multiappend":       {"C a APPEND b {3+}|abc {2+}|de|b NOOP|", "S a OK done|b OK done|"},
	"idle":              {"C i IDLE|", "S + idling|", "S * 5 EXISTS|", "C DONE|", "S i OK done|"},
	"idle no done":      {"C i IDLE|", "S + idling|", "C b NOOP|", "S i OK done|", "S b OK done|"},
	"idle refused":      {"C i IDLE|", "S i BAD no|", "C b NOOP|", "S b OK|"},
	"enable":            {"C a ENABLE CONDSTORE|", "S * ENABLED CONDSTORE|a OK done|"},
	"enable some":       {"C a ENABLE X-UNKNOWN condstore {|b ENABLE {3+}|abc|", "S * ENABLED CONDSTORE|a OK done|"},
	"refused":           {"C a COMPRESS DEFLATE|b ENABLE X-UNKNOWN|c RESUME NIL ()|d UID RESUME x|e LOGIN a b|f XYZZY {3+}|abc|g NOOP|", "S g OK|"},
	"capability":        {"C a CAPABILITY|", "S * CAPABILITY IMAP4rev1 COMPRESS=DEFLATE AUTH=PLAIN|a OK [CAPABILITY RESUME] done|"},
	"text like literal": {"C a NOOP|", "S * OK you have {5}|a OK done {3}|"},
	"literal8":          {"C a FETCH 1 BINARY[]|", "S * 1 FETCH (BINARY[] ~{4}|\x00\r\nx)|a OK|"},
	"two literals":      {"C a FETCH 1 X|", "S * 1 FETCH (A {2}|xx B {2}|yy C)|a OK|"},
	"close":             {"C a SELECT x|", "S * OK [UIDVALIDITY 1] x|a OK|", "C b CLOSE|", "S b OK|"},
	"failed select":     {"C a SELECT x|", "S * OK [UIDVALIDITY 1] x|a OK|", "C b SELECT y|", "S b NO|"},
	"pipelined":         {"C a SELECT x|b SELECT y|c NOOP|", "S * 1 EXISTS|* OK [UIDVALIDITY 1] x|a OK|* OK [CLOSED] x|* 2 EXISTS|* OK [UIDVALIDITY 2] x|b OK [READ-ONLY] y|c OK|"},
	"unsolicited":       {"S * 5 EXISTS|* BYE [UNAVAILABLE] going down|"},
	"bare LF":           {"C a NOOP|", "S * OK x\n* 1 FETCH (BODY[] {3}\nabc)\na OK\n"},
	"vanished":          {"C a SELECT x|", "S * 9 EXISTS|* OK [UIDVALIDITY 1] x|a OK|", "C b NOOP|", "S * VANISHED 1,4:5|* VANISHED (EARLIER) 7|b OK|"},
	"save":              {"C a SELECT x|", "S * OK [UIDVALIDITY 1] x|a OK|", "C b SEARCH RETURN (SAVE) ALL|", "S b OK|"},
	"notify":            {"C a NOTIFY NONE|", "S a OK|"},
	"modseq":            {"C a SELECT x|", "S * OK [UIDVALIDITY 1] x|a OK|", "C b UID FETCH 1:* (FLAGS) (CHANGEDSINCE 5)|", "S * 1 FETCH (MODSEQ (9))|b OK|"},
	"long line":         {"C a SEARCH ALL|", "S * SEARCH" + strings.Repeat(" 123456", 4000) + "|a OK|"},
	"long with literal": {"C a FETCH 1 X|", "S * 1 FETCH (X \"" + strings.Repeat("y", 20000) + "\" Z {3}|\r\n\r)|a OK|"},
	"long tagged":       {"C a COPY 1 x|", "S a OK [COPYUID 1 " + strings.Repeat("1,", 10000) + "1 2] {5}|* 2 EXISTS|"},
	"empty tag":         {"C |", "C +  NOOP|", "C a|"},
	"quote":             {"C a LIST \"\" \"x {3+}|", "C b NOOP|", "S b OK|"},
}

// play feeds a dialogue, cut into pieces by cut, and returns the feeder.
func play(t *testing.T, d dialogue, cut func(n int) int) *feeder {
	f := &feeder{t: t, tr: testTracker()}
	d.each(func(client bool, octets []byte) {
		for len(octets) > 0 && f.fatal == nil {
			n := cut(len(octets))
			if client {
				f.fromClient(octets[:n])
			} else {
				f.fromBackend(octets[:n])
			}
			octets = octets[n:]
		}
	})
	return f
}

func whole(n int) int { return n }

var compareTrackers = []cmp.Option{
	cmp.AllowUnexported(tracker{}, clientSide{}, serverSide{}, command{}, selection{}, view{}, feeder{}),
	cmpopts.IgnoreFields(tracker{}, "policy"), cmpopts.IgnoreFields(serverSide{}, "tail", "tailLen", "instead"),
	cmpopts.IgnoreFields(clientSide{}, "text"), cmpopts.EquateEmpty(),
}

func sameOutcome(t *testing.T, what string, want, got *feeder) {
	t.Helper()
	for _, d := range []string{
		cmp.Diff(want.client.String(), got.client.String()), cmp.Diff(want.backend.String(), got.backend.String()),
		cmp.Diff(want.tr, got.tr, compareTrackers...), cmp.Diff(fmt.Sprint(want.fatal), fmt.Sprint(got.fatal)),
	} {
		if d != "" {
			t.Fatalf("%s (-whole +cut):\n%s", what, d)
		}
	}
}

// TestTrackerAtEverySplit: where the network cuts the octets must not matter.
func TestTrackerAtEverySplit(t *testing.T) {
	for name, d := range dialogues {
		t.Run(name, func(t *testing.T) {
			want := play(t, d, whole)
			sameOutcome(t, "octet by octet", want, play(t, d, func(int) int { return 1 }))
			longest := 0
			d.each(func(_ bool, o []byte) { longest = max(longest, len(o)) })
			step := max(1, longest/500)
			for at := 1; at < longest; at += step {
				sameOutcome(t, fmt.Sprintf("cut at %d", at), want, play(t, d, func(n int) int { return min(n, at) }))
			}
		})
	}
}

// reference is the simplest possible parser of responses: it sees everything at
// once. It returns what the client gets, and whether the end is a boundary.
func reference(stream []byte, caps string) (out []byte, boundary bool) {
	status := regexp.MustCompile(`^(?i)(\* (OK|NO|BAD|BYE|PREAUTH)([ \r\n]|$)|[^*]|\*[^ ]|.{0,3}$)`)
	literal := regexp.MustCompile(`\{([0-9]{1,19})\}\r?\n$`)
	start := regexp.MustCompile(`(?i)^\* CAPABILITY[ \r\n]`)
	code := regexp.MustCompile(`(?i)^([^ \r\n]+ (?:OK|NO|BAD)) \[CAPABILITY[ \]][^\]\r\n]*\]`)
	first := true
	for len(stream) > 0 {
		i := bytes.IndexByte(stream, '\n')
		if i < 0 {
			return out, false
		}
		l := stream[:i+1]
		stream = stream[i+1:]
		if first {
			isStatus := status.Match(bytes.TrimRight(l, "\n"))
			switch {
			case start.Match(l):
				out = append(out, "* CAPABILITY "+caps+"\r\n"...)
			case isStatus && code.Match(l):
				out = append(out, code.ReplaceAll(l, []byte("$1 [CAPABILITY "+strings.ReplaceAll(caps, "$", "")+"]"))...)
			default:
				out = append(out, l...)
			}
			if isStatus {
				continue
			}
		} else {
			out = append(out, l...)
		}
		first = true
		if m := literal.FindSubmatch(l); m != nil {
			n, err := strconv.ParseUint(string(m[1]), 10, 64)
			if err == nil {
				if n > uint64(len(stream)) {
					return append(out, stream...), false
				}
				out = append(out, stream[:n]...)
				stream = stream[n:]
				first = false
			}
		}
	}
	return out, first
}

// FuzzTrackerServer compares with the reference parser, at a split position.
func FuzzTrackerServer(f *testing.F) {
	for _, d := range dialogues {
		d.each(func(client bool, o []byte) {
			if !client && len(o) < 1000 {
				f.Add(o, uint16(3))
			}
		})
	}
	f.Add([]byte("* CAPABILITY\r\n* 1 FETCH (X {18446744073709551615}\r\n"), uint16(1))
	f.Fuzz(func(t *testing.T, stream []byte, split uint16) {
		if len(stream) > 4000 || bytes.Contains(bytes.ToUpper(stream), []byte("[CAPABILITY")) && !bytes.Contains(stream, []byte("]")) {
			return
		}
		fd := &feeder{t: t, tr: testTracker()}
		at := int(split) % (len(stream) + 1)
		fd.fromBackend(stream[:at])
		fd.fromBackend(stream[at:])
		if fd.fatal != nil {
			return
		}
		want, boundary := reference(stream, fd.tr.policy.list())
		got := append(fd.client.Bytes(), fd.down...)
		if boundary && len(fd.down) > 0 {
			t.Fatalf("%q is held back", fd.down)
		}
		if !bytes.Equal(got[:min(len(got), len(want))], want) {
			t.Fatalf("got  %q\nwant %q", got, want)
		}
		if boundary && fd.tr.down.state != downStart {
			t.Fatalf("state %v at a boundary", fd.tr.down.state)
		}
	})
}

// FuzzTrackerClient: cuts do not matter, and what must not reach a store does
// not.
func FuzzTrackerClient(f *testing.F) {
	for _, d := range dialogues {
		d.each(func(client bool, o []byte) {
			if client {
				f.Add(o, uint16(3))
			}
		})
	}
	f.Fuzz(func(t *testing.T, stream []byte, split uint16) {
		at := int(split) % (len(stream) + 1)
		a := play(t, dialogue{"C " + string(stream)}, whole)
		b := play(t, dialogue{"C " + string(stream[:at]), "C " + string(stream[at:])}, whole)
		if a.client.String() != b.client.String() || a.backend.String() != b.backend.String() {
			t.Fatalf("whole %q %q\ncut %q %q", a.client.String(), a.backend.String(), b.client.String(), b.backend.String())
		}
		// Read what was passed on as our own store would.
		d := line.NewDecoder(line.NewReader(&readOnly{r: bytes.NewReader(a.backend.Bytes())}, 0), line.Session)
		for d.Begin() == nil {
			var tag, name string
			if d.ExpectTag(&tag) && d.ExpectSP() && d.Keyword(&name) && (name == "RESUME" || name == "COMPRESS") {
				t.Fatalf("%s reached the store: %q", name, a.backend.String())
			}
			d.Fail("skip")
			if d.Discard(1<<20) != nil {
				break
			}
		}
	})
}

func TestTrackerStates(t *testing.T) {
	tests := map[string]func(*tracker) bool{
		"select and fetch": func(t *tracker) bool {
			return t.sel.on && t.sel.exists == 2 && t.sel.uidValidity == 5 && t.sel.modSeq == 9 && string(t.sel.mailbox) == "INBOX"
		},
		"examine literal": func(t *tracker) bool {
			return t.sel.readOnly && string(t.sel.mailbox) == "{5+}\r\nINBOX" && t.sel.exists == 0
		},
		"select literal+": func(t *tracker) bool {
			return string(t.sel.mailbox) == "{5+}\r\nINBOX" && len(t.enabled) == 1
		},
		"enable":        func(t *tracker) bool { return len(t.enabled) == 1 && t.attachable() == "" },
		"modseq":        func(t *tracker) bool { return len(t.enabled) == 1 },
		"close":         func(t *tracker) bool { return !t.sel.on },
		"failed select": func(t *tracker) bool { return !t.sel.on },
		"pipelined": func(t *tracker) bool {
			return string(t.sel.mailbox) == "y" && t.sel.exists == 2 && t.sel.uidValidity == 2 && t.sel.readOnly
		},
		"vanished":    func(t *tracker) bool { return t.sel.exists == 6 },
		"save":        func(t *tracker) bool { return t.sel.saved && t.attachable() == "" },
		"notify":      func(t *tracker) bool { return t.attachable() == reasonNotify },
		"unsolicited": func(t *tracker) bool { return t.said },
		"append":      func(t *tracker) bool { return t.quiet() },
		"idle":        func(t *tracker) bool { return t.quiet() && t.idle == idleOff },
	}
	for name, ok := range tests {
		if f := play(t, dialogues[name], whole); !ok(f.tr) || f.fatal != nil {
			t.Errorf("%s: %v %+v", name, f.fatal, f.tr)
		}
	}
	f := play(t, dialogues["refused"], whole)
	if got := f.backend.String(); got != "g NOOP\r\n" {
		t.Errorf("reached the store: %q", got)
	}
	if got := strings.Count(f.client.String(), " BAD "); got != 5 || !strings.Contains(f.client.String(), "* ENABLED\r\nb OK ") {
		t.Errorf("client got %q", f.client.String())
	}
	f = play(t, dialogues["enable some"], whole)
	if got := f.backend.String(); got != "a ENABLE condstore\r\n" || !strings.Contains(f.client.String(), "b BAD ") {
		t.Errorf("reached the store: %q, client got %q", got, f.client.String())
	}
	f = play(t, dialogues["quote"], whole)
	if got := f.backend.String(); got != "b NOOP\r\n" {
		t.Errorf("reached the store: %q", got)
	}
}

func TestView(t *testing.T) {
	var v view
	var model []uint32
	rnd := rand.New(rand.NewPCG(1, 2))
	for uid := uint32(1); uid < 400; uid++ {
		if rnd.IntN(3) > 0 {
			model = append(model, uid)
			v.learn(uint32(len(model)), uid)
		}
	}
	for len(model) > 0 {
		i := rnd.IntN(len(model))
		model = append(model[:i:i], model[i+1:]...)
		v.remove(uint32(i + 1))
		if int(v.n) != len(model) || v.bad {
			t.Fatalf("%d messages, want %d, bad %v", v.n, len(model), v.bad)
		}
		for s, uid := range model {
			if got := v.uid(uint32(s + 1)); got != uid {
				t.Fatalf("message %d has UID %d, want %d", s+1, got, uid)
			}
		}
	}
	for name, learn := range map[string][][2]uint32{
		"gap": {{2, 5}}, "descending": {{1, 5}, {2, 4}}, "changed": {{1, 5}, {1, 6}}, "zero": {{0, 1}}, "no uid": {{1, 0}},
	} {
		v := view{}
		for _, l := range learn {
			v.learn(l[0], l[1])
		}
		if !v.bad {
			t.Errorf("%s was believed", name)
		}
	}
}
