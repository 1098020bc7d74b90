package mailtest

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Mailseed builds bench/mailseed for this test and returns the program: it
// fills servers with mail, writes manifests, and is the judge of copies.
func Mailseed(t testing.TB) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "mailseed")
	out, err := exec.Command("go", "build", "-o", bin, "mailferry/bench/mailseed").CombinedOutput()
	if err != nil {
		t.Fatalf("build mailseed: %v\n%s", err, out)
	}
	return bin
}

// Judge fills servers and compares them. It shares no code with the product.
type Judge struct{ bin, dir string }

// NewJudge builds the judge.
func NewJudge(t testing.TB) *Judge {
	t.Helper()
	return &Judge{bin: Mailseed(t), dir: t.TempDir()}
}

// Server is a server as the judge logs in to it.
type Server struct {
	Addr     string // IMAP, host:port
	TLS      bool   // implicit, certificate not checked
	POP3     string // to compare UIDLs, or ""
	Password string // of all users, or of Master
	Master   string // logs in for the users, or ""
	Authzid  bool   // by SASL PLAIN authzid instead of user*master
}

func (s Server) flags() []string {
	f := []string{"-addr", s.Addr, "-pass", s.Password}
	if s.TLS {
		f = append(f, "-tls")
	}
	if s.POP3 != "" {
		f = append(f, "-pop", s.POP3)
	}
	if s.Master != "" {
		f = append(f, "-master", s.Master)
	}
	if s.Authzid {
		f = append(f, "-master-by", "authzid")
	}
	return f
}

// Verdict is what the judge finds; All holds every count.
type Verdict struct {
	IdentityPerfect bool            `json:"identity_perfect"` // no client can notice a difference
	ContentPerfect  bool            `json:"content_perfect"`  // all but UIDs, order and the like
	All             json.RawMessage `json:"-"`
}

// Load fills mailboxes with deterministic mail of the corpus and returns the
// manifest of what is there then. Users are as in "u001..u020,anna"; flags are
// mailseed's, for example "-messages", "300", "-big", "0".
func (j *Judge) Load(t testing.TB, s Server, users string, flags ...string) string {
	t.Helper()
	m := filepath.Join(j.dir, "load-"+users+".json")
	j.run(t, append(append([]string{"load", "-corpus", CorpusDir(t), "-users", users, "-manifest", m, "-deep"}, s.flags()...), flags...)...)
	return m
}

// Snapshot writes the manifest of what is there.
func (j *Judge) Snapshot(t testing.TB, s Server, users string) string {
	t.Helper()
	m := filepath.Join(j.dir, "snapshot-"+users+"-"+port(s.Addr)+".json")
	j.run(t, append([]string{"snapshot", "-users", users, "-manifest", m, "-deep"}, s.flags()...)...)
	return m
}

// Verify compares a server with a manifest, users empty for all of it.
func (j *Judge) Verify(t testing.TB, manifest string, s Server, users string) Verdict {
	t.Helper()
	return verdict(t, j.run(t, append([]string{"verify", "-manifest", manifest, "-users", users, "-deep"}, s.flags()...)...))
}

// Compare compares two manifests.
func (j *Judge) Compare(t testing.TB, want, got string) Verdict {
	t.Helper()
	return verdict(t, j.run(t, "verify", "-manifest", want, "-against", got))
}

func verdict(t testing.TB, out string) Verdict {
	t.Helper()
	v := Verdict{All: json.RawMessage(out)}
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("mailseed verify: %v\n%s", err, out)
	}
	return v
}

func (j *Judge) run(t testing.TB, args ...string) string {
	t.Helper()
	var stdout, stderr strings.Builder
	cmd := exec.Command(j.bin, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("mailseed %s: %v\n%s%s", args[0], err, stderr.String(), stdout.String())
	}
	return stdout.String()
}

// Mutate changes loaded mailboxes as users do between two passes: flags,
// expunges, moves, a renamed and a deleted mailbox, new mail. An INBOX has to
// hold 100 messages.
func (j *Judge) Mutate(t testing.TB, s Server, users string) {
	t.Helper()
	j.run(t, append([]string{"mutate", "-corpus", CorpusDir(t), "-users", users}, s.flags()...)...)
}

// Inject delivers n messages to INBOX and flags the first three.
func (j *Judge) Inject(t testing.TB, s Server, users, label string, n int) {
	t.Helper()
	j.run(t, append([]string{"inject", "-users", users, "-label", label, "-messages", strconv.Itoa(n)}, s.flags()...)...)
}
