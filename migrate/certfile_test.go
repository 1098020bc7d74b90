package migrate

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestCertificateLines: users in whom nothing changed share a file, and the latest
// certificate of each is found, whichever form it has, also behind one that a crash
// tore.
func TestCertificateLines(t *testing.T) {
	dir, j := testJournal(t)
	signer, err := OpenSigner(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC()
	certificate := func(user string, n uint64) *Certificate {
		now = now.Add(time.Second)
		c := &Certificate{User: user, Batch: "b1", Written: now, Level: "copied", Messages: n,
			Exception: []Exception{{Mailbox: "a<b>&c", What: "x"}}}
		if err := signer.Sign(c); err != nil {
			t.Fatal(err)
		}
		return c
	}
	line := func(j *journal, user string, n uint64) {
		t.Helper()
		if err := j.certificateLine(certificate(user, n)); err != nil {
			t.Fatal(err)
		}
	}
	want := func(user string, n uint64) {
		t.Helper()
		c, text, err := readCertificateText(dir, user)
		if err != nil || c.User != user || c.Messages != n {
			t.Fatalf("%q: %+v, %v, want %d", user, c, err, n)
		}
		if _, err := CheckSignature(text); err != nil {
			t.Errorf("%q: %v", user, err)
		}
	}
	none := func(user string) {
		t.Helper()
		if _, err := readCertificate(dir, user); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %v", user, err)
		}
	}
	none("anna")
	line(j, "anna", 1)
	line(j, `o"<b>&ü`, 2)
	line(j, "annabel", 3)
	want("anna", 1)
	want(`o"<b>&ü`, 2)
	none("ann")
	if err := j.certificate(certificate("anna", 4)); err != nil { // and changed later
		t.Fatal(err)
	}
	want("anna", 4)
	line(j, "anna", 5)
	want("anna", 5)
	j.close()

	path := filepath.Join(dir, linesName)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, whole[:len(whole)-10], 0o600); err != nil {
		t.Fatal(err)
	}
	want("anna", 4)
	again, _, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer again.close()
	line(again, "bob", 6)
	want("bob", 6)
	want("anna", 4)
	want("annabel", 3)
	none("carl")
}
