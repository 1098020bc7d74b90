package line

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// feed returns a Reader that finds input and then the end of the stream.
func feed(input string, size int) *Reader {
	a, b := Pipe()
	go func() {
		io.WriteString(a, input)
		a.CloseWrite()
	}()
	return NewReader(b, size)
}

func TestReadLine(t *testing.T) {
	long := strings.Repeat("x", 300)
	tests := []struct {
		name, input string
		max         int
		want        []string
		err         error
	}{
		{"two lines", "a\r\nb\r\n", 10, []string{"a", "b"}, io.EOF},
		{"bare LF", "a\nb\r\n", 10, []string{"a", "b"}, io.EOF},
		{"empty line", "\r\nb\r\n", 10, []string{"", "b"}, io.EOF},
		{"longer than the buffer", long + "\r\nb\r\n", 1000, []string{long, "b"}, io.EOF},
		{"just fits", "12345678\r\n", 10, []string{"12345678"}, io.EOF},
		{"one too long", "123456789\r\n", 10, nil, ErrLineTooLong},
		{"endless", strings.Repeat("x", 5000), 100, nil, ErrLineTooLong},
		{"cut off", "abc", 10, nil, io.ErrUnexpectedEOF},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			r := feed(tc.input, 16)
			for _, want := range tc.want {
				if got, err := r.ReadLine(tc.max); string(got) != want || err != nil {
					t.Fatalf("got %q, %v; want %q", got, err, want)
				}
			}
			if l, err := r.ReadLine(tc.max); !errors.Is(err, tc.err) {
				t.Errorf("got %q, %v; want %v", l, err, tc.err)
			}
		})
	}
}

func TestWaitHasTwoDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe()
		defer a.Close()
		defer b.Close()
		r := NewReader(b, 0)
		start := time.Now()
		if err := r.Wait(30*time.Minute, time.Minute); err != ErrIdle {
			t.Fatalf("got %v", err)
		}
		if d := time.Since(start); d != 30*time.Minute {
			t.Errorf("idle for %v", d)
		}
		a.Write([]byte("A NO"))
		if err := r.Wait(30*time.Minute, time.Minute); err != nil {
			t.Fatal(err)
		}
		start = time.Now()
		if _, err := r.ReadLine(100); err == nil {
			t.Fatal("half a line is no line")
		}
		if d := time.Since(start); d != time.Minute {
			t.Errorf("the command had %v", d)
		}
	})
}

func TestWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe()
		defer a.Close()
		r := NewReader(b, 0)
		r.Wake()
		if err := r.Wait(0, 0); err != ErrWoken {
			t.Fatalf("a wake-up before Wait: %v", err)
		}
		go func() {
			time.Sleep(time.Second)
			r.Wake()
		}()
		if err := r.Wait(0, 0); err != ErrWoken {
			t.Fatalf("a wake-up during Wait: %v", err)
		}
		a.Write([]byte("DONE\r\n"))
		if err := r.Wait(time.Minute, time.Minute); err != nil {
			t.Fatal(err)
		}
		r.Wake() // must not disturb the line
		if l, err := r.ReadLine(10); string(l) != "DONE" || err != nil {
			t.Errorf("got %q, %v", l, err)
		}
	})
}

func TestStartTLSRefusesEarlyData(t *testing.T) {
	a, b := Pipe()
	defer a.Close()
	c := NewConn(b)
	a.Write([]byte("a STARTTLS\r\nb LOGIN x y\r\n"))
	if l, err := c.ReadLine(100); string(l) != "a STARTTLS" || err != nil {
		t.Fatalf("got %q, %v", l, err)
	}
	if err := c.StartTLSServer(context.Background(), nil, "a OK go\r\n"); err != ErrEarlyData {
		t.Errorf("got %v", err)
	}
}

func TestExactTellsTruncation(t *testing.T) {
	r := feed("12345", 4)
	got, err := io.ReadAll(r.Exactly(3))
	if string(got) != "123" || err != nil {
		t.Fatalf("got %q, %v", got, err)
	}
	if got, err = io.ReadAll(r.Exactly(3)); err != io.ErrUnexpectedEOF {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestWriterSticksToItsFirstError(t *testing.T) {
	a, b := Pipe()
	w := NewWriter(a, time.Minute)
	w.WriteString(strings.Repeat("x", WriteBuffer-1))
	b.Close()
	w.Write(bytes.Repeat([]byte("y"), 2*WriteBuffer))
	first := w.Flush()
	if first == nil {
		t.Fatal("no error from a closed peer")
	}
	w.WriteByte('z')
	if err := w.Flush(); err != first {
		t.Errorf("got %v, want the first error %v", err, first)
	}
}

func TestWriterReadFrom(t *testing.T) {
	a, b := Pipe()
	w := NewWriter(a, time.Minute)
	want := strings.Repeat("0123456789", 5000)
	go func() {
		w.WriteString("<")
		w.ReadFrom(strings.NewReader(want))
		w.WriteString(">")
		w.Flush()
		a.CloseWrite()
	}()
	got, err := io.ReadAll(b)
	if string(got) != "<"+want+">" || err != nil {
		t.Errorf("got %d octets, %v", len(got), err)
	}
}
