package message

import (
	"bytes"
	"strings"
	"testing"
	"testing/iotest"
)

func TestMatcherFindsTextAcrossReads(t *testing.T) {
	text := strings.Repeat("x", 40000) + "Größe ÄÖÜ" + strings.Repeat("y", 40000)
	for _, want := range []string{"größe", "ÄÖ", "xG", "Üy"} {
		found, err := NewMatcher(want).read(iotest.HalfReader(strings.NewReader(text)))
		if err != nil || !found {
			t.Errorf("%q: %v, %v", want, found, err)
		}
		if found, err = NewMatcher(want).read(iotest.OneByteReader(strings.NewReader(text[39990:40020]))); err != nil || !found {
			t.Errorf("%q octet by octet: %v, %v", want, found, err)
		}
	}
	if found, _ := NewMatcher("absent").read(strings.NewReader(text)); found {
		t.Error("found what is not there")
	}
}

func TestDecodeOfParts(t *testing.T) {
	for _, tc := range []struct{ encoding, charset, raw, want string }{
		{"quoted-printable", "utf-8", "a=C3=A4=\r\nb=\nc=zz=", "aäbc=zz="},
		{"BASE64", "", "aGVs\r\nbG8=\r\ntrailer", "hello"},
		{"base64", "iso-8859-1", "5A==", "ä"},
		{"8bit", "windows-1252", "\x80", "€"},
		{"7bit", "no-such-charset", "plain", "plain"},
	} {
		p := &Part{Kind: TextLeaf, Encoding: text(tc.encoding), Params: []Param{{"charset", tc.charset}}}
		var got bytes.Buffer
		got.ReadFrom(p.decode(iotest.HalfReader(strings.NewReader(tc.raw))))
		if got.String() != tc.want {
			t.Errorf("%s %s: got %q, want %q", tc.encoding, tc.charset, got.String(), tc.want)
		}
	}
}

func FuzzMatcher(f *testing.F) {
	for _, m := range oddMessages {
		f.Add([]byte(m), "x")
	}
	f.Fuzz(func(t *testing.T, b []byte, want string) {
		m, _ := Parse(bytes.NewReader(b))
		if _, err := NewMatcher(want).Message(bytes.NewReader(b), m, true); err != nil {
			t.Fatal(err)
		}
	})
}
