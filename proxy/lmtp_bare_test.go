package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
)

// TestLMTPBareNames: recipients need no domain, wherever the network cuts the
// octets; messages that look like commands stay as they are.
func TestLMTPBareNames(t *testing.T) {
	const trap = "RCPT TO:<homer>\r\nDATA\r\nBDAT 9\r\nSTARTTLS\r\nRCPT TO:<homer>\r\n"
	long := "X: " + strings.Repeat("x", 2*maxCommandLine) + "\r\n"
	steps := []struct {
		text    string
		replies []string
	}{
		{"LHLO mx\r\n", []string{"250"}},
		{"RCPT TO:<homer>\r\n", []string{"502"}}, // out of order
		{"DATA\r\n", []string{"502"}},
		{"MAIL FROM:<s@example.org>\r\nrcpt to:<homer>\r\nRCPT TO:<nemo>\r\nRCPT TO: <homer@example.org>\r\nRCPT TO:<>\r\nDATA\r\n",
			[]string{"250", "250", "550", "250", "501", "354"}},
		{trap + long + "..dot\r\n.\r\nNOOP\r\n", []string{"250", "250", "250"}},
		{"MAIL FROM:<s@example.org>\r\nRCPT TO:<homer> NOTIFY=NEVER\r\n", []string{"250", "504"}}, // DSN is not offered
		{"RCPT TO:<homer>\r\n", []string{"250"}},
		{fmt.Sprintf("BDAT %d\r\n%sBDAT %d LAST\r\n%s", len(trap), trap, len("x\r\n"+trap), "x\r\n"+trap), []string{"250", "250"}},
		{"QUIT\r\n", []string{"221"}},
	}
	for _, cut := range []int{1, 2, 3, 7, 1 << 20} {
		inMailWorld(t, nil, func(m *mailWorld) {
			conn := m.dial()
			defer conn.Close()
			r := bufio.NewReader(conn)
			code := func() string {
				for {
					l, err := r.ReadString('\n')
					if err != nil || strings.Contains(l, ".invalid") {
						t.Fatalf("cut at %d: %q %v", cut, l, err)
					}
					if l[3] == ' ' {
						return l[:3]
					}
				}
			}
			code()
			for _, s := range steps {
				go sendCut(conn, s.text, cut)
				for _, want := range s.replies {
					if got := code(); got != want {
						t.Errorf("cut at %d, %.40q: %s, want %s", cut, s.text, got, want)
					}
				}
			}
			want := []string{"homer: " + trap + long + ".dot\r\n", "homer: " + trap + "x\r\n" + trap}
			if got := m.own.got(); len(got) != 2 || !strings.Contains(got[0]+got[1], want[0]) || !strings.Contains(got[0]+got[1], want[1]) {
				t.Errorf("cut at %d: delivered %.300q", cut, got)
			}
		})
	}
}

func sendCut(conn net.Conn, text string, cut int) {
	for len(text) > 0 {
		n := min(cut, len(text))
		if _, err := io.WriteString(conn, text[:n]); err != nil {
			return // the test sees what is missing
		}
		text = text[n:]
	}
}
