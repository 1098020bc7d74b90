package imapd_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mailferry/internal/mailtest"
	"mailferry/store/imapd"
)

// TestRealClients lets mbsync, offlineimap and mutt work with the server.
func TestRealClients(t *testing.T) {
	if testing.Short() {
		t.Skip("starts other programs")
	}
	mailtest.Require(t, "mbsync", "offlineimap", "mutt")
	w := newWorld(t, func(o *imapd.Options) { o.ClearLogin = true })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- w.server.Serve(l) }()
	t.Cleanup(func() {
		l.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	c := w.login()
	messages := mailtest.Generated(60)
	c.ok("CREATE Entw&APw-rfe/alt")
	for i, m := range messages.All(t) {
		c.append([]string{"INBOX", "Entw&APw-rfe/alt", "Archive"}[i%3], `\Seen $Forwarded`, string(m))
	}
	account := mailtest.Account{Addr: l.Addr().String(), User: "anna", Password: "secret"}
	for _, client := range []*mailtest.MailClient{mailtest.NewMbsync(t, account), mailtest.NewOfflineIMAP(t, account)} {
		if s := client.Run(t); s.Messages != 60 {
			t.Errorf("%s has %d messages, want 60\n%s", client.Name, s.Messages, s.Output)
		}
		if s := client.Run(t); s.New != 0 || s.Gone != 0 {
			t.Errorf("%s, second run: %d new, %d gone", client.Name, s.New, s.Gone)
		}
	}
	if box := mailtest.MuttRead(t, account); strings.Count(box, "\nSubject: message ") != 20 {
		t.Errorf("mutt copied %d messages, want 20", strings.Count(box, "\nSubject: message "))
	}
	localMail(t, mailtest.NewMbsync(t, account), c)
}

// localMail lets mbsync bring a local message, and a flag, to the server.
func localMail(t *testing.T, m *mailtest.MailClient, c *conn) {
	t.Helper()
	m.Run(t)
	dirs, _ := filepath.Glob(filepath.Join(m.Local, "*", "new"))
	inbox := ""
	for _, d := range dirs {
		if strings.Contains(d, "INBOX") {
			inbox = d
		}
	}
	if inbox == "" {
		t.Fatalf("mbsync has no INBOX among %q", dirs)
	}
	if err := os.WriteFile(filepath.Join(inbox, "1.local.test"), []byte(strings.ReplaceAll(mail("local"), "\r", "")), 0o600); err != nil {
		t.Fatal(err)
	}
	m.Run(t)
	c.ok("SELECT INBOX")
	c.is("SEARCH 21|OK", "SEARCH SUBJECT local")
}
