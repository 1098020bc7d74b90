package line

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestUTF7(t *testing.T) {
	for raw, want := range map[string]string{
		"INBOX":                           "INBOX",
		"Entw&APw-rfe":                    "Entwürfe",
		"A &- B":                          "A & B",
		"~peter/mail/&U,BTFw-/&ZeVnLIqe-": "~peter/mail/台北/日本語",
		"&2D3eAA-":                        "😀",
	} {
		got, err := DecodeUTF7(raw)
		if err != nil || got != want {
			t.Errorf("decode %q: %q, %v", raw, got, err)
		}
		if back := EncodeUTF7(want); back != raw {
			t.Errorf("encode %q: %q, want %q", want, back, raw)
		}
	}
	for _, bad := range []string{"&", "&Jjo", "&Jjo!", "&AEE-", "&U,BTFw-&ZeVnLIqe-", "Entwürfe", "&2D0-", "a\x01", "&A-", "&APx-", "&AP-"} {
		if got, err := DecodeUTF7(bad); err != ErrUTF7 {
			t.Errorf("decode %q: %q, %v; want an error", bad, got, err)
		}
	}
}

func FuzzUTF7(f *testing.F) {
	for _, s := range []string{"Entw&APw-rfe", "&-", "&2D3eAA-", "&AEE-", "a&"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if u, err := DecodeUTF7(s); err == nil {
			if !utf8.ValidString(u) {
				t.Fatalf("%q decodes to invalid UTF-8 %q", s, u)
			}
			if back := EncodeUTF7(u); back != s {
				t.Fatalf("%q decodes to %q, which encodes to %q", s, u, back)
			}
		}
		if utf8.ValidString(s) {
			if u, err := DecodeUTF7(EncodeUTF7(s)); err != nil || u != s {
				t.Fatalf("%q comes back as %q, %v", s, u, err)
			}
		}
	})
}

func TestParsePlain(t *testing.T) {
	tests := []struct {
		msg  string
		want Plain
		ok   bool
	}{
		{"\x00anna\x00secret", Plain{"", "anna", "secret"}, true},
		{"anna\x00admin\x00s p", Plain{"anna", "admin", "s p"}, true},
		{"\x00anna\x00p\xff", Plain{"", "anna", "p\xff"}, true},
		{"\x00\x00secret", Plain{}, false},
		{"anna\x00secret", Plain{}, false},
		{"\x00an\r\nna\x00secret", Plain{}, false},
		{"\x00anna\x00sec\nret", Plain{}, false},
		{"\x00anna\x00a\x00b", Plain{}, false},
		{"\x00an\xffna\x00x", Plain{}, false},
		{"\x00" + strings.Repeat("x", 2000) + "\x00x", Plain{}, false},
	}
	for _, tc := range tests {
		got, err := ParsePlain([]byte(tc.msg))
		if got != tc.want || (err == nil) != tc.ok {
			t.Errorf("%q: %+v, %v", tc.msg, got, err)
		}
		if tc.ok && string(AppendPlain(nil, tc.want)) != tc.msg {
			t.Errorf("AppendPlain(%+v) is not %q", tc.want, tc.msg)
		}
	}
}

func TestDecodeSASL(t *testing.T) {
	if _, err := DecodeSASL([]byte("*")); !errors.Is(err, ErrSASLCancelled) {
		t.Errorf("*: %v", err)
	}
	if b, err := DecodeSASL([]byte("=")); err != nil || len(b) != 0 {
		t.Errorf("=: %q, %v", b, err)
	}
	if b, err := DecodeSASL([]byte(base64.StdEncoding.EncodeToString([]byte("x\x00y")))); err != nil || string(b) != "x\x00y" {
		t.Errorf("%q, %v", b, err)
	}
	for _, bad := range []string{"a", "a$==", "YQ==\r", "YQ="} {
		if _, err := DecodeSASL([]byte(bad)); bad != "YQ==\r" && err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestMasked(t *testing.T) {
	for in, want := range map[string]string{
		"a LOGIN anna secret":               "a LOGIN anna [masked]",
		`a login "anna b" "x"`:              "a login [masked]",
		"a LOGIN {4}":                       "a LOGIN [masked]",
		"a LOGIN anna":                      "a LOGIN anna",
		"a AUTHENTICATE PLAIN AGFubmEAeA==": "a AUTHENTICATE PLAIN [masked]",
		"AUTH PLAIN AGFubmEAeA==":           "AUTH PLAIN [masked]",
		"PASS secret word":                  "PASS [masked]",
		"a FETCH 1 (FLAGS)":                 "a FETCH 1 (FLAGS)",
		"a\x00\x1b[2J":                      `a\x00\x1b[2J`,
	} {
		if got := Masked([]byte(in)); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
