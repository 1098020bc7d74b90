package proxy

import (
	"bytes"
	"testing"
)

// feedLines plays what both sides say, in pieces that end at the given
// positions, and returns what each side hears. The store speaks when the client
// has said all.
func feedLines(t *testing.T, d *dialect, up, down string, cutUp, cutDown int) (client, store string) {
	t.Helper()
	tr := &lineTracker{dialect: d}
	var toClient, toStore bytes.Buffer
	step := func(feed func(buf []byte, out *output) int, buf []byte) []byte {
		var out output
		n := feed(buf, &out)
		if out.fatal != nil {
			t.Fatalf("cut at %d and %d: %v", cutUp, cutDown, out.fatal)
		}
		for _, b := range out.client {
			toClient.Write(b)
		}
		for _, b := range out.backend {
			toStore.Write(b)
		}
		toClient.Write(tr.takeInject())
		return buf[n:]
	}
	fromClient := func(buf []byte, out *output) int { n, _ := tr.fromClient(buf, out); return n }
	rest := step(fromClient, []byte(up[:cutUp]))
	if rest = step(fromClient, append(bytes.Clone(rest), up[cutUp:]...)); len(rest) > 0 {
		t.Fatalf("cut at %d: %q is left", cutUp, rest)
	}
	rest = step(tr.fromBackend, []byte(down[:cutDown]))
	if rest = step(tr.fromBackend, append(bytes.Clone(rest), down[cutDown:]...)); len(rest) > 0 {
		t.Fatalf("cut at %d: %q is left", cutDown, rest)
	}
	if !tr.quiet() || !tr.boundary() || len(tr.flight) > 0 {
		t.Fatalf("cut at %d and %d: not quiet: %+v", cutUp, cutDown, tr)
	}
	return toClient.String(), toStore.String()
}

// TestLinesInEverySplit: where the network cuts changes nothing.
func TestLinesInEverySplit(t *testing.T) {
	for _, tt := range []struct {
		d                *dialect
		up, down         string
		toClient, toBack string
	}{
		{&pop3Dialect, "STAT\r\nXX\r\nRETR 1\r\nLIST\r\nLIST 1\r\nSTLS\r\n",
			"+OK 1 2\r\n+OK\r\n.\r.\r\n..\r\n\n.\r\n\r\n.\r\r\n.x\r\n.\r\n-ERR no\r\n+OK 1 3\r\n",
			"+OK 1 2\r\n-ERR Unknown command\r\n+OK\r\n.\r.\r\n..\r\n\n.\r\n\r\n.\r\r\n.x\r\n.\r\n-ERR no\r\n+OK 1 3\r\n-ERR Already logged in\r\n",
			"STAT\r\nRETR 1\r\nLIST\r\nLIST 1\r\n"},
		{&sieveDialect, "PUTSCRIPT {1+}\r\na {4+}\r\nO\r\nK\r\nSTARTTLS\r\nAUTHENTICATE {2+}\r\n\r\n {0+}\r\n\r\nGETSCRIPT \"a\"\r\nNOOP\r\n",
			"OK (WARNINGS) {4}\r\nOK\r\n\r\n{5}\r\nNO\r\n\n\r\n\"x\" {0}\r\n\r\nOK\r\nNO\r\n",
			"OK (WARNINGS) {4}\r\nOK\r\n\r\nNO \"Already logged in\"\r\nNO \"Already logged in\"\r\n{5}\r\nNO\r\n\n\r\n\"x\" {0}\r\n\r\nOK\r\nNO\r\n",
			"PUTSCRIPT {1+}\r\na {4+}\r\nO\r\nK\r\nGETSCRIPT \"a\"\r\nNOOP\r\n"},
	} {
		for up := range len(tt.up) + 1 {
			for _, down := range []int{0, up % len(tt.down), len(tt.down)} {
				if c, b := feedLines(t, tt.d, tt.up, tt.down, up, down); c != tt.toClient || b != tt.toBack {
					t.Fatalf("cut at %d and %d: the client got %q, the store %q", up, down, c, b)
				}
			}
		}
		for down := range len(tt.down) + 1 {
			if c, _ := feedLines(t, tt.d, tt.up, tt.down, 0, down); c != tt.toClient {
				t.Fatalf("cut at %d: the client got %q", down, c)
			}
		}
	}
}
