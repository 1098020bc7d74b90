package line

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func TestPipeCarriesEverythingInOrder(t *testing.T) {
	a, b := Pipe()
	rng := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, 3<<20)
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	go func() {
		defer a.CloseWrite()
		for p := data; len(p) > 0; {
			n := min(len(p), 1+rng.IntN(200<<10))
			if _, err := a.Write(p[:n]); err != nil {
				t.Errorf("write: %v", err)
				return
			}
			p = p[n:]
		}
	}()
	h := sha256.New()
	n, err := io.CopyBuffer(h, onlyReader{b}, make([]byte, 7777))
	if err != nil || n != int64(len(data)) {
		t.Fatalf("read %d octets, %v", n, err)
	}
	if want := sha256.Sum256(data); !bytes.Equal(h.Sum(nil), want[:]) {
		t.Error("octets differ")
	}
	if _, err := b.Write([]byte("still open")); err != nil {
		t.Errorf("write against a half-closed peer: %v", err)
	}
}

type onlyReader struct{ io.Reader }

func TestPipeDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe()
		start := time.Now()
		a.SetReadDeadline(start.Add(time.Minute))
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("read: %v", err)
		}
		if d := time.Since(start); d != time.Minute {
			t.Errorf("waited %v", d)
		}
		a.SetReadDeadline(time.Time{})
		done := make(chan error)
		go func() {
			_, err := a.Read(make([]byte, 1))
			done <- err
		}()
		synctest.Wait()
		a.SetReadDeadline(time.Unix(1, 0)) // wakes the running read
		if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("read: %v", err)
		}
		a.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := a.Write(make([]byte, 3*PipeBuffer))
		if n != PipeBuffer || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write took %d octets, %v; want %d: the buffer is bounded", n, err, PipeBuffer)
		}
		b.Close()
		if _, err := a.Write([]byte("x")); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write to a closed peer: %v", err)
		}
	})
}

func TestPipeClose(t *testing.T) {
	a, b := Pipe()
	a.Write([]byte("last words"))
	a.Close()
	got, err := io.ReadAll(b)
	if string(got) != "last words" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read after close: %v", err)
	}
	if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
}

func BenchmarkPipe(b *testing.B) {
	for _, size := range []int{64, 4096, 32768} {
		b.Run(time.Duration(size).String()[:len(time.Duration(size).String())-2], func(b *testing.B) {
			c, d := Pipe()
			go io.Copy(io.Discard, onlyReader{d})
			p := make([]byte, size)
			b.SetBytes(int64(size))
			for b.Loop() {
				c.Write(p)
			}
			c.Close()
		})
	}
}
