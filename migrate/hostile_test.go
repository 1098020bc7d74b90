package migrate

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// hostile is an old store with one user whose answers tests bend. Its dialogue
// is the least that a copy needs; unknown commands get BAD.
type hostile struct {
	typ   backend.StoreType
	caps  string
	sep   string // of the hierarchy; default "/"
	store *backend.Store

	mu    sync.Mutex
	boxes []*hostileBox
	// bend may replace an answer to a command; conn counts connections.
	bend func(conn int, line string, answer []string) []string
	seen []string // commands, without tags
}

type hostileBox struct {
	name     string
	attrs    string
	validity int
	next     int
	modseq   int
	object   string // MAILBOXID
	msgs     []*hostileMsg
}

type hostileMsg struct {
	uid         int
	flags, date string
	size        int // announced; 0: the true one
	body        string
	nobody      bool // NIL
	id          string
}

func startHostile(t *testing.T, h *hostile) *hostile {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 1; ; n++ {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { h.serve(conn, n) })
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	h.store = storeAt(t, h.typ, ln.Addr().String(), backend.Login{Mode: backend.LoginMaster, User: "a", Secret: "s"})
	return h
}

func (h *hostile) serve(conn net.Conn, n int) {
	defer conn.Close()
	fmt.Fprintf(conn, "* OK [CAPABILITY IMAP4rev1] hi\r\n")
	r := bufio.NewReader(conn)
	var sel *hostileBox
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line, err = literals(conn, r, line)
		if err != nil {
			return
		}
		tag, rest, _ := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
		h.mu.Lock()
		h.seen = append(h.seen, rest)
		answer := h.answer(rest, &sel)
		if h.bend != nil {
			answer = h.bend(n, rest, answer)
		}
		h.mu.Unlock()
		var b strings.Builder
		for i, l := range answer {
			if i == len(answer)-1 {
				l = tag + " " + l
			}
			b.WriteString(l + "\r\n")
		}
		if _, err := conn.Write([]byte(b.String())); err != nil || len(answer) == 0 {
			return
		}
	}
}

// literals reads the literals of a command, and puts quoted strings in their place.
func literals(conn net.Conn, r *bufio.Reader, line string) (string, error) {
	for {
		m := literalRE.FindStringSubmatch(line)
		if m == nil {
			return line, nil
		}
		if m[2] == "" {
			fmt.Fprintf(conn, "+ go on\r\n")
		}
		n, _ := strconv.Atoi(m[1])
		data := make([]byte, n)
		if _, err := io.ReadFull(r, data); err != nil {
			return "", err
		}
		rest, err := r.ReadString('\n')
		if err != nil {
			return "", err
		}
		line = strings.TrimSuffix(line, m[0]) + quoteWire(string(data)) + rest
	}
}

var literalRE = regexp.MustCompile(`\{(\d+)(\+?)\}\r?\n$`)

func quoteWire(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// unquoteWire takes the quoted string, or the word, at the start of s.
func unquoteWire(s string) string {
	if !strings.HasPrefix(s, `"`) {
		word, _, _ := strings.Cut(s, " ")
		return word
	}
	var b strings.Builder
	for i := 1; i < len(s) && s[i] != '"'; i++ {
		if s[i] == '\\' {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func (h *hostile) answer(line string, sel **hostileBox) (out []string) {
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "LOGIN":
		return []string{"OK [CAPABILITY IMAP4rev1 " + h.caps + "] in"}
	case "LIST":
		for _, b := range h.boxes {
			sep := `"/"`
			if h.sep != "" {
				sep = quoteWire(h.sep)
			}
			name := quoteWire(b.name)
			if strings.ContainsFunc(b.name, func(r rune) bool { return r < ' ' || r > '~' }) {
				name = fmt.Sprintf("{%d}\r\n%s", len(b.name), b.name)
			}
			out = append(out, "* LIST ("+b.attrs+") "+sep+" "+name)
		}
	case "STATUS":
		b := h.box(unquoteWire(rest))
		if b == nil {
			return []string{"NO [NONEXISTENT] no such mailbox"}
		}
		name := fmt.Sprintf("{%d}\r\n%s", len(b.name), b.name)
		out = append(out, fmt.Sprintf("* STATUS %s (MESSAGES %d UIDNEXT %d UIDVALIDITY %d%s)", name, len(b.msgs), b.next, b.validity, modseq(" HIGHESTMODSEQ %d", b.modseq)))
	case "EXAMINE", "SELECT":
		if *sel = h.box(unquoteWire(rest)); *sel == nil {
			return []string{"NO [NONEXISTENT] no such mailbox"}
		}
		out = append(out, fmt.Sprintf("* %d EXISTS", len((*sel).msgs)), fmt.Sprintf("* OK [UIDVALIDITY %d] v", (*sel).validity),
			fmt.Sprintf("* OK [UIDNEXT %d] n", (*sel).next), modseq("* OK [HIGHESTMODSEQ %d] m", (*sel).modseq))
		if o := (*sel).object; o != "" {
			out = append(out, "* OK [MAILBOXID ("+o+")] o")
		}
	case "UID":
		out = (*sel).fetch(rest)
	case "LSUB", "NOOP", "LOGOUT", "NAMESPACE":
	default:
		return []string{"BAD what"}
	}
	out = slices.DeleteFunc(out, func(s string) bool { return s == "" })
	return append(out, "OK done")
}

func modseq(format string, n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(format, n)
}

func (h *hostile) box(name string) *hostileBox {
	i := slices.IndexFunc(h.boxes, func(b *hostileBox) bool { return b.name == name })
	if i < 0 {
		return nil
	}
	return h.boxes[i]
}

var fetchRE = regexp.MustCompile(`^FETCH (\S+) \((.*?)\)`)

func (b *hostileBox) fetch(rest string) (out []string) {
	m := fetchRE.FindStringSubmatch(rest)
	if m == nil {
		return nil
	}
	for i, msg := range b.msgs {
		if !inSet(m[1], msg.uid) {
			continue
		}
		size := msg.size
		if size == 0 {
			size = len(msg.body)
		}
		id := ""
		if strings.Contains(m[2], "X-GUID") && msg.id != "" {
			id = " X-GUID " + msg.id
		}
		switch {
		case !strings.Contains(m[2], "BODY"):
			out = append(out, fmt.Sprintf(`* %d FETCH (UID %d FLAGS (%s) INTERNALDATE "%s" RFC822.SIZE %d%s%s)`, i+1, msg.uid, msg.flags, msg.date,
				size, modseq(" MODSEQ (%d)", b.modseq), id))
		case msg.nobody:
			out = append(out, fmt.Sprintf(`* %d FETCH (UID %d BODY[] NIL)`, i+1, msg.uid))
		default:
			out = append(out, fmt.Sprintf("* %d FETCH (UID %d%s BODY[] {%d}\r\n%s)", i+1, msg.uid, id, len(msg.body), msg.body))
		}
	}
	return out
}

func inSet(set string, uid int) bool {
	for _, r := range strings.Split(set, ",") {
		lo, hi, ok := strings.Cut(r, ":")
		a, _ := strconv.Atoi(lo)
		z, err := strconv.Atoi(hi)
		if !ok {
			z = a
		} else if err != nil { // "*"
			z = 1 << 32
		}
		if uid >= a && uid <= z {
			return true
		}
	}
	return false
}

// filled makes a box of n messages.
func filled(name string, n int) *hostileBox {
	b := &hostileBox{name: name, validity: 7, next: n + 1}
	for i := range n {
		b.msgs = append(b.msgs, &hostileMsg{uid: i + 1, date: "01-Feb-2020 10:00:00 +0100",
			body: fmt.Sprintf("Subject: %d\r\nDate: Fri, 3 Apr 2015 10:00:00 +0200\r\n\r\n%s\r\n", i, strings.Repeat("x", i))})
	}
	return b
}

func (h *hostile) account(fs *fakeStore) *account { return h.into(fs) }

func (h *hostile) into(importer backend.Importer) *account {
	return newAccount("anna", func(ctx context.Context) (*remote.Client, error) {
		c, err := remote.DialIMAP(ctx, remote.Target{Store: h.store, User: "anna"})
		if err != nil {
			return nil, err
		}
		return remote.NewClient(c), nil
	}, importer)
}

// synced runs a pass that has to succeed.
func synced(t *testing.T, a *account) *pass {
	t.Helper()
	p, err := a.sync(context.Background())
	if err == nil {
		err = p.err()
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func exceptionsOf(a *account) string {
	var b strings.Builder
	for _, e := range a.certify("copied").Exception {
		fmt.Fprintf(&b, "%s %d %s skipped=%v\n", e.Mailbox, e.UID, e.What, e.Skipped)
	}
	return b.String()
}
