package mailtest

import (
	"encoding/json"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Mail is a list of messages whose order and octets are the same in every
// run. Messages are read when they are asked for.
type Mail struct {
	dir   string
	files []string // empty: generated
	n     int
}

// Corpus is the corpus of about 6,000 real messages that bench/peers keeps;
// without it the test is skipped, or fails where CI is set.
func Corpus(t testing.TB) *Mail {
	t.Helper()
	Require(t, "corpus")
	files := corpusFiles()
	return &Mail{dir: corpusDir(), files: files, n: len(files)}
}

// Generated is a list of n small messages that needs no corpus; a sixth of
// them is odd in a legal way.
func Generated(n int) *Mail { return &Mail{n: n} }

// CorpusDir is the corpus as a directory tree, for bench/mailseed's -corpus.
func CorpusDir(t testing.TB) string {
	t.Helper()
	Require(t, "corpus")
	return corpusDir()
}

// Len is the number of messages.
func (m *Mail) Len() int { return m.n }

// Message returns message i, counted modulo Len: header and body with CRLF
// line ends and without NUL.
func (m *Mail) Message(t testing.TB, i int) []byte {
	t.Helper()
	i %= m.n
	if m.files == nil {
		return generate(i)
	}
	b, err := os.ReadFile(filepath.Join(m.dir, m.files[i]))
	if err != nil {
		t.Fatal(err)
	}
	var f struct {
		Text string `json:"text"`
	}
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatalf("%s: %v", m.files[i], err)
	}
	return crlf(f.Text)
}

// All yields every message once, in order.
func (m *Mail) All(t testing.TB) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		for i := range m.n {
			if !yield(i, m.Message(t, i)) {
				return
			}
		}
	}
}

func corpusDir() string { return envOr("CORPUS", filepath.Join(cacheDir(), "corpus")) }

// corpusFiles lists the corpus once per process.
var corpusFiles = sync.OnceValue(func() []string {
	dir := corpusDir()
	files, _ := filepath.Glob(filepath.Join(dir, "*", "*.json"))
	for i, f := range files {
		files[i], _ = filepath.Rel(dir, f)
	}
	slices.Sort(files)
	return files
})

// crlf drops an mbox "From " line and gives every line a CRLF end.
func crlf(s string) []byte {
	s = strings.NewReplacer("\r\n", "\n", "\r", "\n", "\x00", "").Replace(s)
	if strings.HasPrefix(s, "From ") {
		_, s, _ = strings.Cut(s, "\n")
	}
	if !strings.HasSuffix(s, "\n") {
		s += "\n"
	}
	return []byte(strings.ReplaceAll(s, "\n", "\r\n"))
}

// generate makes message i of Generated.
func generate(i int) []byte {
	r := rand.New(rand.NewPCG(1, uint64(i)))
	var b strings.Builder
	fmt.Fprintf(&b, "From: sender%d@example.org\r\nTo: anna@example.org\r\nSubject: message %d\r\n", r.IntN(50), i)
	fmt.Fprintf(&b, "Date: %02d Mar 2003 %02d:%02d:00 +0100\r\n", 1+i%28, i%24, i%60)
	switch i % 12 {
	case 3: // no Message-ID
	case 7:
		fmt.Fprintf(&b, "Message-ID: <generated.%d@example.org>\r\nX-Raw: caf\xe9\r\n", i)
	default:
		fmt.Fprintf(&b, "Message-ID: <generated.%d@example.org>\r\n", i)
	}
	if i%30 == 11 { // a header only
		return []byte(b.String() + "\r\n")
	}
	b.WriteString("\r\n")
	for range 1 + r.IntN(40) {
		b.WriteString(strings.Repeat("lorem ipsum ", 1+r.IntN(6)) + "\r\n")
	}
	return []byte(b.String())
}
