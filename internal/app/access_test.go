package app

import (
	"bufio"
	"encoding/base64"
	"net"
	"strings"
	"testing"
	"time"

	"mailferry/internal/admin"
)

// TestOwnStoreWithoutSieve: the listener is there, and a user whose
// store cannot serve it is told to come back, not that the password is wrong.
func TestOwnStoreWithoutSieve(t *testing.T) {
	s := newSetup(t, strings.Replace(anyPort, "listen: {", `listen: {managesieve: ["127.0.0.1:0"], `, 1))
	a := s.start(t)
	c := admin.NewClient(s.data)
	t.Cleanup(c.Close)
	if _, err := c.AddUser(t.Context(), admin.NewUser{Name: "anna@example.org", Password: "secret"}); err != nil {
		t.Fatal(err)
	}
	plain := base64.StdEncoding.EncodeToString([]byte("\x00anna@example.org\x00secret"))
	nc, err := net.Dial("tcp", a.Addr("managesieve"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(time.Minute))
	r := bufio.NewReader(nc)
	for l := ""; !strings.Contains(l, "ready"); {
		if l, err = r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	nc.Write([]byte("AUTHENTICATE \"PLAIN\" \"" + plain + "\"\r\n"))
	want := "NO (TRYLATER) \"ManageSieve is not available for this mailbox now\"\r\n"
	if got, err := r.ReadString('\n'); got != want {
		t.Errorf("got %q, %v", got, err)
	}
}
