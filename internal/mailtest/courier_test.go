package mailtest

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

func TestCourier(t *testing.T) {
	for _, o := range []CourierOptions{{}, {Users: map[string]string{"anna@example.org": "hers"}}} {
		user, pass := "anna", "secret"
		if o.Users != nil {
			user, pass = "anna@example.org", "hers"
		}
		t.Run(user, func(t *testing.T) {
			t.Parallel() // it waits: a wrong login costs five seconds
			d := StartCourier(t, o)
			c := DialIMAP(t, d.IMAP)
			c.Login(user, pass)
			exercise(t, c, d.Prefix)
			d.Deliver(t, user, "", sample)
			c.Cmd("SELECT INBOX")
			if got := strings.Join(c.Cmd("FETCH 1 BODY.PEEK[]"), "\n"); !strings.Contains(got, "Hello\r\n") {
				t.Errorf("delivered: %q", got)
			}
			c.Cmd("LOGOUT")
			if o.Users != nil {
				DialIMAP(t, d.IMAP).CmdStatus("NO", "LOGIN nobody secret")
			}
			start := DialIMAP(t, d.IMAP)
			start.StartTLS(d.CA.Client())
			start.AuthPlain("", user, pass)
			start.Cmd("EXAMINE INBOX")
			start.Close()
			tls := DialIMAPS(t, d.IMAPS, d.CA.Client())
			tls.Login(user, pass)
			tls.Cmd("EXAMINE INBOX")
			tls.Close()
			courierUIDL(t, d, user, pass)
			d.Kill()
			d.Start(t)
			DialIMAP(t, d.IMAP).Login(user, pass)
			d.Stop()
		})
	}
}

// courierUIDL expects Courier's form of unique ids over POP3.
func courierUIDL(t *testing.T, d *Courier, user, pass string) {
	t.Helper()
	conn, err := net.Dial("tcp", d.POP3)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(startLimit)); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	for _, cmd := range []string{"", "USER " + user, "PASS " + pass, "UIDL 1", "QUIT"} {
		if cmd != "" {
			fmt.Fprintf(conn, "%s\r\n", cmd)
		}
		line, err := r.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, "+OK") || (cmd == "UIDL 1" && !strings.Contains(line, "UID1-")) {
			t.Fatalf("%s: %q %v", cmd, line, err)
		}
	}
}
