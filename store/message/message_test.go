package message

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBlobBringsBackTheStructure(t *testing.T) {
	for _, m := range oddMessages {
		want := Parsed(t, []byte(strings.ReplaceAll(m, "\n", "\r\n")))
		b, err := want.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		var got Message
		if err := got.UnmarshalBinary(b); err != nil {
			t.Fatalf("%q: %v", m, err)
		}
		if diff := cmp.Diff(want, &got); diff != "" {
			t.Errorf("%q: %s", m, diff)
		}
		for i := range b {
			got := Message{}
			got.UnmarshalBinary(b[:i]) // must not panic
		}
	}
}

// TestStructureOfPieces: a message written at once, most of which the parser
// passes over in bulk, has the structure that single octets give.
func TestStructureOfPieces(t *testing.T) {
	parts := "--b\nContent-Type: text/html\n\n- dash\n\n-\n--\nx\n\n\n--b\n\n--b--\n-- \nepilogue\n"
	for _, m := range append(oddMessages, "Content-Type: multipart/mixed; boundary=b\n\n"+parts, "Subject: x\n\n"+parts) {
		for _, text := range []string{m, strings.ReplaceAll(m, "\n", "\r\n"), m + strings.Repeat("word\n", 20000)} {
			whole, single := NewParser(), NewParser()
			whole.Write([]byte(text))
			for i := range len(text) {
				single.Write([]byte(text[i : i+1]))
			}
			if diff := cmp.Diff(single.Finish(), whole.Finish()); diff != "" {
				t.Errorf("%.200q: %s", text, diff)
			}
		}
	}
}

func BenchmarkParse(b *testing.B) {
	text := []byte("From: Anna <anna@example.org>\r\nTo: Bert <bert@example.org>\r\nSubject: Hello\r\nMessage-ID: <1@x>\r\n" +
		"Date: Mon, 2 Mar 2026 10:00:00 +0100\r\nMIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary=abc\r\n\r\n" +
		"--abc\r\nContent-Type: text/plain\r\n\r\n" + strings.Repeat("a line of text as long as lines of text usually are\r\n", 100) +
		"--abc\r\nContent-Type: text/html\r\n\r\n" + strings.Repeat("<p>a line of text as long as lines usually are</p>\r\n", 200) + "--abc--\r\n")
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		p := NewParser()
		p.Write(text)
		if _, err := p.Finish().MarshalBinary(); err != nil {
			b.Fatal(err)
		}
	}
}

func TestMemoryIsBounded(t *testing.T) {
	p := NewParser()
	line := []byte(strings.Repeat("x", 1<<20))
	p.Write([]byte("Subject: "))
	for range 50 {
		p.Write(line)
	}
	p.Write([]byte("\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"))
	for range maxParts + 500 {
		p.Write([]byte("--b\r\n\r\n"))
	}
	m := p.Finish()
	if n := len(m.Envelope.Subject.Value); n > maxField {
		t.Errorf("the subject has %d octets", n)
	}
	if n := len(m.Children); n != maxParts-1 {
		t.Errorf("%d parts", n)
	}
}

func TestNestingIsBounded(t *testing.T) {
	var b strings.Builder
	for range 3000 {
		b.WriteString("Content-Type: message/rfc822\n\n")
	}
	m := Parsed(t, []byte(b.String()))
	AppendStructure(nil, &m.Part, true)
	blob, _ := m.MarshalBinary()
	if err := new(Message).UnmarshalBinary(blob); err != nil {
		t.Error(err)
	}
}

// FuzzParse checks what callers rely on: ranges lie within the message and
// within each other, and the pieces in which octets come do not matter.
func FuzzParse(f *testing.F) {
	for _, m := range oddMessages {
		f.Add([]byte(m), byte(3))
	}
	f.Fuzz(func(t *testing.T, b []byte, piece byte) {
		m, _ := Parse(bytes.NewReader(b))
		p := NewParser()
		for c := b; len(c) > 0; {
			n := min(len(c), int(piece)+1)
			p.Write(c[:n])
			c = c[n:]
		}
		if diff := cmp.Diff(m, p.Finish()); diff != "" {
			t.Fatalf("in pieces: %s", diff)
		}
		if m.Size != int64(len(b)) || m.Body.End != m.Size {
			t.Fatalf("size %d, body to %d, want %d", m.Size, m.Body.End, len(b))
		}
		var walk func(p *Part, within Range)
		walk = func(p *Part, within Range) {
			if p.Header.Start < within.Start || p.Header.Len() < 0 || p.Body.Start != p.Header.End || p.Body.Len() < 0 || p.Body.End > within.End {
				t.Fatalf("part %+v %+v is not within %+v", p.Header, p.Body, within)
			}
			if n := int64(bytes.Count(b[p.Body.Start:p.Body.End], []byte("\n"))); n != p.Lines {
				t.Fatalf("%d lines, want %d", p.Lines, n)
			}
			for _, c := range p.Children {
				walk(c, p.Body)
			}
		}
		walk(&m.Part, Range{0, m.Size})
		AppendStructure(nil, &m.Part, true)
		blob, _ := m.MarshalBinary()
		var back Message
		if err := back.UnmarshalBinary(blob); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, &back); diff != "" {
			t.Fatal(diff)
		}
		FilterFields(new(bytes.Buffer), bytes.NewReader(b), []string{"subject"}, piece%2 == 0)
	})
}
