package line

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"
	"github.com/google/go-cmp/cmp"
)

func decode(t *testing.T, input string, l Limits) *Decoder {
	t.Helper()
	d := NewDecoder(feed(input, 64), l)
	d.Continue = func() error { return nil }
	if err := d.Begin(); err != nil {
		t.Fatalf("Begin: %v", err)
	}
	return d
}

func TestDecoderWords(t *testing.T) {
	str := func(f func(*Decoder, *string) bool) func(*Decoder) string {
		return func(d *Decoder) string {
			var s string
			if !f(d, &s) {
				return "!"
			}
			return s
		}
	}
	astring := str((*Decoder).ExpectAString)
	tests := []struct {
		name, input string
		parse       func(*Decoder) string
		want        string
		rest        string
	}{
		{"tag", "a.1] x", str((*Decoder).ExpectTag), "a.1]", " x"},
		{"no tag", "+ x", str((*Decoder).ExpectTag), "!", "+ x"},
		{"atom stops", "FETCH(", str((*Decoder).ExpectAtom), "FETCH", "("},
		{"astring atom", "box] y", astring, "box]", " y"},
		{"astring quoted", `"a \"b\\" y`, astring, `a "b\`, " y"},
		{"astring empty", `""`, astring, "", ""},
		{"astring literal", "{3}\r\na\r\n y", astring, "a\r\n", " y"},
		{"astring literal+", "{3+}\r\nabc", astring, "abc", ""},
		{"literal8", "~{3+}\r\nabc", str((*Decoder).ExpectString), "abc", ""},
		{"raw UTF-8", "Entwürfe", astring, "Entwürfe", ""},
		{"bad escape", `"a\n"`, astring, "!", `"a\n"`},
		{"open quote", `"abc`, astring, "!", `"abc`},
		{"bad literal", "{x}", astring, "!", "{x}"},
		{"huge literal", "{99999999999999999999999}", astring, "!", "{99999999999999999999999}"},
		{"pattern", "INBOX.%", str((*Decoder).ExpectListMailbox), "INBOX.%", ""},
		{"section", "1.2.Mime]", func(d *Decoder) string { return d.Section() }, "1.2.MIME", "]"},
		{"word", "nil)", func(d *Decoder) string { return fmt.Sprint(d.Word("NIL")) }, "true", ")"},
		{"not the word", "nils", func(d *Decoder) string { return fmt.Sprint(d.Word("NIL")) }, "false", "nils"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			d := decode(t, tc.input+"\r\n", PreLogin)
			if got := tc.parse(d); got != tc.want {
				t.Errorf("got %q, want %q (%v)", got, tc.want, d.Err())
			}
			if got := string(d.Rest()); got != tc.rest {
				t.Errorf("rest %q, want %q", got, tc.rest)
			}
		})
	}
}

func TestDecoderNumSet(t *testing.T) {
	tests := []struct {
		in       string
		last     uint32
		resolved string
	}{
		{"1", 9, "1"},
		{"4,2:3,1", 9, "1:4"},
		{"5:*", 9, "5:9"},
		{"*:5", 3, "3:5"},
		{"*", 0, ""},
		{"1:*", 0, "1"},
		{"4294967295,4294967294", 9, "4294967294:4294967295"},
		{"0", 9, "!"}, {"1:", 9, "!"}, {",", 9, "!"}, {"4294967296", 9, "!"}, {"1::2", 9, "!"},
	}
	for _, tc := range tests {
		d := decode(t, tc.in+"\r\n", PreLogin)
		var s NumSet
		got := "!"
		if d.ExpectNumSet(&s) && d.AtEnd() {
			got = s.Resolve(tc.last).String()
		}
		if got != tc.resolved {
			t.Errorf("%s with last %d: got %q, want %q", tc.in, tc.last, got, tc.resolved)
		}
	}
	s := NumSet{{1, 3}, {7, 7}}
	if s.Contains(4) || !s.Contains(3) || !s.Contains(7) || s.Contains(8) || s.Count() != 4 {
		t.Error("Contains or Count is wrong")
	}
}

func TestDecoderBounds(t *testing.T) {
	small := Limits{Line: 40, Literal: 10, Command: 60, Nesting: 2}
	nested := func(d *Decoder) bool {
		var item func() bool
		item = func() bool { return d.ExpectList(item) }
		return d.ExpectList(item)
	}
	str := func(d *Decoder) bool {
		var s string
		for d.ExpectString(&s) && d.SP() {
		}
		return d.Err() == nil
	}
	tests := []struct {
		name, input string
		parse       func(*Decoder) bool
		want        error
	}{
		{"nesting", "((()))", nested, &SyntaxError{}},
		{"nesting within", "(())", nested, nil},
		{"literal", "{11+}\r\n12345678901", str, ErrTooBig},
		{"literal within", "{10+}\r\n1234567890", str, nil},
		{"many literals", strings.Repeat("{10+}\r\n1234567890 ", 5), str, ErrTooBig},
		{"line behind", "{1+}\r\n1 \"" + strings.Repeat("x", 50) + `"`, str, ErrLineTooLong},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			d := decode(t, tc.input+"\r\nnext\r\n", small)
			ok := tc.parse(d)
			var syntax *SyntaxError
			if errors.As(tc.want, &syntax) {
				if !errors.As(d.Err(), &syntax) {
					t.Errorf("got %v, want a syntax error", d.Err())
				}
			} else if !errors.Is(d.Err(), tc.want) {
				t.Errorf("got %v, want %v", d.Err(), tc.want)
			}
			if ok != (tc.want == nil) {
				t.Errorf("parsed: %v", ok)
			}
			if err := d.Discard(1000); err != nil {
				t.Fatalf("Discard: %v", err)
			}
			if err := d.Begin(); err != nil || string(d.Rest()) != "next" {
				t.Errorf("the next command is %q, %v", d.Rest(), err)
			}
		})
	}
}

func TestDecoderDiscardFindsTheNextCommand(t *testing.T) {
	for _, cmd := range []string{
		"bad {3+}\r\nabc {2+}\r\nxy tail",
		"bad {3}", // never asked for: the client does not send it
		"bad \"{3+}x",
		"bad",
		strings.Repeat("x", 9000) + " {5+}\r\n12345 tail",
	} {
		d := NewDecoder(feed(cmd+"\r\nnext\r\n", 64), PreLogin)
		d.Begin()
		d.Fail("no")
		if err := d.Discard(20000); err != nil {
			t.Fatalf("%.20q: %v", cmd, err)
		}
		if err := d.Begin(); err != nil || string(d.Rest()) != "next" {
			t.Errorf("%.20q: the next command is %q, %v", cmd, d.Rest(), err)
		}
	}
}

func TestDecoderStreamsLiterals(t *testing.T) {
	body := strings.Repeat("0123456789", 10000)
	d := decode(t, fmt.Sprintf("{%d}\r\n%s tail\r\n", len(body), body), PreLogin)
	var info LiteralInfo
	if !d.LiteralHeader(&info) || info.Size != int64(len(body)) {
		t.Fatalf("header %+v, %v", info, d.Err())
	}
	got, err := io.ReadAll(d.OpenLiteral())
	if err != nil || string(got) != body {
		t.Fatalf("got %d octets, %v", len(got), err)
	}
	if !d.CloseLiteral() || string(d.Rest()) != " tail" {
		t.Errorf("behind the literal: %q, %v", d.Rest(), d.Err())
	}
}

func TestDecoderFlags(t *testing.T) {
	d := decode(t, "(\\Seen $Forwarded work) \\Deleted a\r\n", PreLogin)
	var a, b []imap.Flag
	if !d.ExpectFlags(&a) || !d.ExpectSP() || !d.ExpectFlags(&b) || !d.ExpectEnd() {
		t.Fatal(d.Err())
	}
	if diff := cmp.Diff([]imap.Flag{"\\Seen", "$Forwarded", "work"}, a); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]imap.Flag{"\\Deleted", "a"}, b); diff != "" {
		t.Error(diff)
	}
}

func TestEncoder(t *testing.T) {
	a, b := Pipe()
	e := Encoder{NewWriter(a, 0)}
	e.AString("x y").SP().AString("INBOX").SP().AString("").SP().AString("nil").SP().String("q\"\\").SP().
		String("ü").SP().NString("", false).SP().Flags([]imap.Flag{"\\Seen", "k"}).SP().NumSet(NumSet{{1, 3}, {9, 9}}).SP().
		Literal(strings.NewReader("abc"), 3).CRLF()
	if err := e.Flush(); err != nil {
		t.Fatal(err)
	}
	a.Close()
	got, _ := io.ReadAll(b)
	want := `"x y" INBOX "" "nil" "q\"\\" {2}` + "\r\nü NIL (\\Seen k) 1:3,9 {3}\r\nabc\r\n"
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	e.Literal(strings.NewReader("ab"), 3)
	if e.Err() != io.ErrUnexpectedEOF {
		t.Errorf("a short literal: %v", e.Err())
	}
}

func FuzzDecoder(f *testing.F) {
	for _, s := range []string{"a LOGIN {3+}\r\nabc \"x\"\r\n", "a UID FETCH 1:*,5 (FLAGS BODY[1.2.MIME])\r\n", "((((((", "~{4}\r\n1234 x\r\n", "\"\\"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d := NewDecoder(feed(s, 16), Limits{Line: 100, Literal: 50, Command: 200, Nesting: 3})
		d.Continue = func() error { return nil }
		var str string
		var n NumSet
		var item func() bool
		item = func() bool { return d.ListOf(item) || d.ExpectAString(&str) }
		for range 50 {
			if d.Begin() == nil {
				for d.ExpectTag(&str); d.SP(); {
					_ = d.NumSet(&n) || item()
				}
				d.ExpectEnd()
			}
			if d.Discard(1000) != nil {
				return
			}
		}
	})
}
