package line

import (
	"bufio"
	"io"
	"net/textproto"
	"strings"
	"testing"
	"testing/iotest"
)

// dotted is what a DotWriter makes of octets that come in pieces of size n.
func dotted(t testing.TB, in string, n int) string {
	t.Helper()
	a, b := Pipe()
	defer a.Close()
	done := make(chan string)
	go func() {
		out, _ := io.ReadAll(b)
		done <- string(out)
	}()
	w := NewWriter(a, 0)
	d := NewDotWriter(w)
	for len(in) > 0 {
		k := min(n, len(in))
		if m, err := d.Write([]byte(in[:k])); m != k || err != nil {
			t.Fatalf("Write: %d %v", m, err)
		}
		in = in[k:]
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	w.Flush()
	a.CloseWrite()
	return <-done
}

func TestDotWriter(t *testing.T) {
	for _, c := range []struct{ in, out string }{
		{"", ".\r\n"},
		{"a", "a\r\n.\r\n"},
		{"a\r\n", "a\r\n.\r\n"},
		{".\r\n", "..\r\n.\r\n"},
		{"..a\r\n.b", "...a\r\n..b\r\n.\r\n"},
		{"a.\r\nb.", "a.\r\nb.\r\n.\r\n"},
		{"a\n.\nb\n", "a\r\n..\r\nb\r\n.\r\n"},
		{"a\r\n\n\r\n.", "a\r\n\r\n\r\n..\r\n.\r\n"},
		{"a\r.b\r", "a\r.b\r\r\n.\r\n"},
		{"\r\r\n.\r", "\r\r\n..\r\r\n.\r\n"},
	} {
		for n := 1; n <= len(c.in)+1; n++ {
			if out := dotted(t, c.in, n); out != c.out {
				t.Errorf("%q in pieces of %d: %q, want %q", c.in, n, out, c.out)
			}
		}
	}
}

func TestDotWriterLargePieces(t *testing.T) {
	in := strings.Repeat("0123456789.\r\n.\r\n", 4*WriteBuffer/16)
	want := strings.ReplaceAll(in, "\r\n.\r\n", "\r\n..\r\n") + ".\r\n"
	if out := dotted(t, in, len(in)); out != want {
		t.Errorf("%d octets, want %d", len(out), len(want))
	}
}

// FuzzDotWriter reads back what was written with a reader that was written by
// others.
func FuzzDotWriter(f *testing.F) {
	f.Add("a\r\n.\r\nb", 1)
	f.Add("\n.\n\r.\r\n", 2)
	f.Fuzz(func(t *testing.T, in string, n int) {
		out := dotted(t, in, max(1, n%64))
		r := bufio.NewReader(iotest.OneByteReader(strings.NewReader(out + "next")))
		got, err := textproto.NewReader(r).ReadDotBytes()
		if err != nil {
			t.Fatal(err)
		}
		if rest, _ := io.ReadAll(r); string(rest) != "next" {
			t.Errorf("%q ends early: %q follows", in, rest)
		}
		// That reader turns CRLF into LF.
		plain := func(s string) string { return strings.TrimSuffix(strings.ReplaceAll(s, "\r\n", "\n"), "\n") }
		if !strings.Contains(in, "\r") && plain(string(got)) != plain(in) {
			t.Errorf("%q came back as %q", in, got)
		}
	})
}
