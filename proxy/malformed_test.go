package proxy

import "testing"

// TestMalformed: what client and backend could read differently is refused, and
// nothing else.
func TestMalformed(t *testing.T) {
	for line, want := range map[string]string{
		"a SELECT box\r\n":              "",
		"a SELECT box}\r\n":             "", // "}" is an ATOM-CHAR
		"a LOGIN {3}\r\n":               "",
		"a LOGIN ~{3+}\r\n":             "",
		"a SEARCH (TEXT {3}\r\n":        "",
		"a SELECT box{3}\r\n":           "Invalid literal",
		"a SELECT {x}\r\n":              "Invalid literal",
		"a SELECT \"box\r\n":            "Open quote",
		"a SELECT \"b\\\"ox\r\n":        "Open quote",
		"a SELECT b\rox\r\n":            "Invalid character",
		"a SELECT b\x00ox\r\n":          "Invalid character",
		"a SELECT \"b\\\\\" {12}\r\n":   "",
		"a STORE 1 FLAGS (\\Seen})\r\n": "",
	} {
		if got := malformed([]byte(line)); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}
