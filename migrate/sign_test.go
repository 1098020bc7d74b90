package migrate

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mailferry/backend"
)

func exampleCertificate() *Certificate {
	return &Certificate{User: "anna@example.org", From: "old1", To: "home", Batch: "b1", Written: time.Unix(1e9, 0).UTC(), Level: "compared",
		Grade: "exceptions", Namespace: backend.DefaultNamespace, Messages: 1234567, Streamed: 1234567, Reread: 12, Proved: 34,
		Mailboxes: []MailboxCertificate{{Name: "INBOX", UIDValidity: 1<<32 - 1, UIDNext: 9, HighestModSeq: 1<<63 + 1, Messages: 8,
			Digest: strings.Repeat("ab", 32), Compared: true}, {Name: "<b>Ärger & Co</b>", NoSelect: true}},
		Exception: []Exception{{Mailbox: "INBOX", UID: 7, What: "date <odd>", Skipped: true}},
		Pause:     &Pause{Hold: 150 * time.Millisecond, Attempts: 1, Sessions: 2, Attached: 2}}
}

func TestSignedCertificateCannotBeChanged(t *testing.T) {
	dir := t.TempDir()
	s, err := OpenSigner(dir)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(filepath.Join(dir, keyFile)); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", st, err)
	}
	c := exampleCertificate()
	if err := s.Sign(c); err != nil {
		t.Fatal(err)
	}
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	sig, err := CheckSignature(text)
	if err != nil || sig.Fingerprint() != s.Fingerprint() {
		t.Fatalf("signature: %v", err)
	}
	var compact bytes.Buffer // the form does not matter
	if err := json.Compact(&compact, text); err != nil {
		t.Fatal(err)
	}
	if _, err := CheckSignature(compact.Bytes()); err != nil {
		t.Error(err)
	}
	for _, change := range []struct{ from, to string }{
		{`"grade": "exceptions"`, `"grade": "perfect"`}, {`"messages": 8`, `"messages": 9`}, {"9223372036854775809", "9223372036854775808"},
		{`"skipped": true`, `"skipped": false`}, {`"user": "anna`, `"extra": 1, "user": "anna`}, {"abab", "abaa"},
	} {
		changed := strings.Replace(string(text), change.from, change.to, 1)
		if changed == string(text) {
			t.Fatalf("%q is not there", change.from)
		}
		if _, err := CheckSignature([]byte(changed)); err == nil {
			t.Errorf("%q for %q is not noticed", change.to, change.from)
		}
	}
	again, err := OpenSigner(dir)
	if err != nil || again.Fingerprint() != s.Fingerprint() {
		t.Errorf("another key after a restart: %v", err)
	}
	c.Signature = nil
	text, _ = json.Marshal(c)
	if _, err := CheckSignature(text); err == nil || !strings.Contains(err.Error(), "not signed") {
		t.Errorf("unsigned: %v", err)
	}
}

func TestSignerRefusesARubbishKey(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, keyFile), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSigner(dir); err == nil {
		t.Error("a key that cannot be read was replaced or taken")
	}
}

func TestPageShowsTheCertificate(t *testing.T) {
	var b strings.Builder
	c := exampleCertificate()
	at := time.Date(2026, 11, 28, 4, 5, 6, 0, time.UTC)
	c.Soak = &SoakReport{Until: at, Late: 1, LateMail: []LateMail{{Mailbox: "Post", UID: 7, As: 9, Seen: at}},
		Exceptions: []Exception{{Mailbox: "Neu", What: "UIDVALIDITY differs"}}, RolledBack: &at, Messages: 12345, Mailboxes: 3,
		Back: &Pause{Hold: 77 * time.Millisecond, Closed: 1, Reasons: []string{"foreign-store"}}}
	s, err := OpenSigner(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Sign(c); err != nil {
		t.Fatal(err)
	}
	if err := WritePage(&b, c); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"anna@example.org", "1,234,567", "<b>missing:</b> date &lt;odd&gt;", "&lt;b&gt;Ärger &amp; Co&lt;/b&gt;",
		"150ms", s.Fingerprint(), "Exceptions: all mail is there",
		"2026-11-28 04:05:06 UTC: the user is on the old store again", "12,345 messages", "Post, UID 7 there, 9 at the new store", "77ms",
		"Not as it was</td><td>Neu: UIDVALIDITY differs", "abababababababab</code> equal"} {
		if !strings.Contains(strings.ReplaceAll(b.String(), "&#43;", "+"), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}
