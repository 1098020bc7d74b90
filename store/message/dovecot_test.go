package message

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"mailferry/internal/mailtest"
)

// TestAnswersAsDovecot appends real and broken messages to a Dovecot and
// compares its answers with ours: ENVELOPE and BODYSTRUCTURE of all, every
// section of the broken ones, of multiparts, and of some others.
func TestAnswersAsDovecot(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	d := mailtest.StartDovecot(t, mailtest.DovecotOptions{})
	c := mailtest.DialIMAP(t, d.IMAP)
	c.Login("anna", d.Password)
	var odd [][]byte
	for _, m := range oddMessages {
		odd = append(odd, []byte(strings.ReplaceAll(m, "\n", "\r\n")))
	}
	compare(t, c, "odd message", 0, odd, func(*Message, int) bool { return true })
	mail := mailtest.Corpus(t)
	const batch = 500
	for first := 0; first < mail.Len(); first += batch {
		var ms [][]byte
		for i := first; i < min(first+batch, mail.Len()); i++ {
			ms = append(ms, mail.Message(t, i))
		}
		compare(t, c, "corpus message", first, ms, func(m *Message, i int) bool { return m.Kind == Multipart && i%5 == 0 || i%50 == 0 })
	}
}

func compare(t *testing.T, c *mailtest.IMAPConn, name string, first int, ms [][]byte, deep func(*Message, int) bool) {
	t.Helper()
	for _, m := range ms {
		c.Append("INBOX", "", time.Time{}, m)
	}
	c.Cmd("SELECT INBOX")
	lines := c.Cmd("FETCH 1:* (ENVELOPE BODYSTRUCTURE)")
	for i, m := range ms {
		got := Parsed(t, m)
		_, theirs, _ := strings.Cut(lines[i], "FETCH (")
		ours := "ENVELOPE " + string(AppendEnvelope(nil, got.Envelope)) +
			" BODYSTRUCTURE " + string(AppendStructure(nil, &got.Part, true)) + ")"
		if ours != theirs {
			t.Errorf("%s %d:\nDovecot %q\nours    %q", name, first+i, theirs, ours)
		}
		if !deep(got, first+i) {
			continue
		}
		for _, s := range sections(got) {
			lines := c.Cmd("FETCH %d BODY.PEEK[%s]", i+1, s.text)
			_, theirs, _ := strings.Cut(lines[0], "] ")
			if ours := s.answer(t, got, m); ours != strings.TrimSuffix(theirs, ")") {
				t.Errorf("%s %d, section %s:\nDovecot %.500q\nours    %.500q", name, first+i, s.text, theirs, ours)
			}
		}
	}
	c.Cmd(`STORE 1:* +FLAGS.SILENT (\Deleted)`)
	c.Cmd("CLOSE")
}

// Parsed parses m in pieces of odd sizes.
func Parsed(t *testing.T, m []byte) *Message {
	t.Helper()
	p := NewParser()
	for b := m; len(b) > 0; {
		n := min(len(b), 1+len(b)%97)
		p.Write(b[:n])
		b = b[n:]
	}
	return p.Finish()
}

type sectionCase struct {
	text string
	s    Section
}

// sections lists what to ask for: every part in every way.
func sections(m *Message) []sectionCase {
	out := []sectionCase{
		{"HEADER", Section{Specifier: SectionHeader}},
		{"TEXT", Section{Specifier: SectionText}},
		{"HEADER.FIELDS (Subject FROM x-none)", Section{Specifier: SectionFields, Names: []string{"Subject", "FROM", "x-none"}}},
		{"HEADER.FIELDS.NOT (Received subject)", Section{Specifier: SectionFieldsNot, Names: []string{"Received", "subject"}}},
		{"99", Section{Path: []int{99}}},
		{"1.1", Section{Path: []int{1, 1}}},
	}
	var walk func(p *Part, path []int, message bool)
	walk = func(p *Part, path []int, message bool) {
		if len(path) > 0 {
			name := strings.Trim(strings.ReplaceAll(fmt.Sprint(path), " ", "."), "[]")
			out = append(out, sectionCase{name, Section{Path: path}}, sectionCase{name + ".MIME", Section{Path: path, Specifier: SectionMIME}})
			if p.Kind == Embedded {
				out = append(out, sectionCase{name + ".HEADER", Section{Path: path, Specifier: SectionHeader}},
					sectionCase{name + ".TEXT", Section{Path: path, Specifier: SectionText}})
			}
		}
		if len(out) > 60 {
			return
		}
		for i, c := range p.Children {
			if p.Kind == Embedded {
				if c.Kind == Multipart {
					walk(c, path, true)
				} else {
					walk(c, append(append([]int{}, path...), 1), false)
				}
				continue
			}
			walk(c, append(append([]int{}, path...), i+1), false)
		}
	}
	if m.Kind == Multipart {
		walk(&m.Part, nil, true)
	} else {
		walk(&m.Part, []int{1}, true)
	}
	return out
}

func (s sectionCase) answer(t *testing.T, m *Message, octets []byte) string {
	r, ok := m.Find(s.s)
	if !ok {
		return "{0}\r\n"
	}
	b := octets[r.Start:r.End]
	if s.s.Specifier == SectionFields || s.s.Specifier == SectionFieldsNot {
		var w bytes.Buffer
		if _, err := FilterFields(&w, bytes.NewReader(b), s.s.Names, s.s.Specifier == SectionFieldsNot); err != nil {
			t.Fatal(err)
		}
		b = w.Bytes()
	}
	return fmt.Sprintf("{%d}\r\n%s", len(b), b)
}
