package proxy

import (
	"bufio"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"mailferry/backend"
)

// refusing is a store that takes no password.
func refusing(name string) func(net.Conn) {
	return func(c net.Conn) {
		r := bufio.NewReader(c)
		fmt.Fprint(c, storeSteps[name][0])
		for {
			l, err := r.ReadString('\n')
			if err != nil {
				return
			}
			tag, rest, _ := strings.Cut(strings.TrimRight(l, "\r\n"), " ")
			switch {
			case strings.HasPrefix(rest, "CAPABILITY"):
				fmt.Fprintf(c, "* CAPABILITY IMAP4rev1\r\n%s OK\r\n", tag)
			case strings.HasPrefix(l, "USER"):
				fmt.Fprint(c, "+OK\r\n")
			case name == "imap":
				fmt.Fprintf(c, "%s NO [AUTHENTICATIONFAILED] no\r\n", tag)
			case name == "pop3":
				fmt.Fprint(c, "-ERR [AUTH] no\r\n")
			default:
				fmt.Fprint(c, "NO \"no\"\r\n")
			}
		}
	}
}

// A password is handed over in every protocol, once the store has taken it, and
// only where the store's configuration says so.
func TestLoggedInTellsOfTakenPasswords(t *testing.T) {
	for name, d := range tokenDialogues {
		for _, tc := range []struct {
			what   string
			login  backend.Login
			serve  func(net.Conn)
			answer string
			want   []string
		}{
			{"taken", backend.Login{Mode: backend.LoginUser, Capture: time.Hour}, playing(storeSteps[name], len(storeSteps[name]), false), d.ok, []string{"old passer secret"}},
			{"refused", backend.Login{Mode: backend.LoginUser, Capture: time.Hour}, refusing(name), d.no, nil},
			{"no consent", backend.Login{Mode: backend.LoginUser}, playing(storeSteps[name], len(storeSteps[name]), false), d.ok, nil},
			{"delegated", backend.Login{Mode: backend.LoginAuthzid, User: "proxy", Secret: "x", Capture: time.Hour}, playing(storeSteps[name], len(storeSteps[name]), false), d.ok, nil},
		} {
			t.Run(name+" "+tc.what, func(t *testing.T) {
				var got, seen []string
				inFarmWorld(t, d.proto, map[string]func(net.Conn){"a": tc.serve}, func(o *Options) {
					o.FailureDelay = -1
					st := o.Stores.(stores)
					st["old"].Login = tc.login
					o.LoggedIn = func(store, user string, password backend.Secret) {
						got = append(got, store+" "+user+" "+password.Reveal())
					}
					o.Seen = func(user, name string) { seen = append(seen, user+" "+name) }
				}, func(w *world, _ *farm) {
					c := newPeer(w.l.dial())
					c.t = w.t
					for !strings.HasPrefix(c.line(), d.greeting) {
					}
					mech := "PLAIN"
					if name == "managesieve" {
						mech = `"PLAIN"`
					}
					c.sendLine("%s%s%s", d.begin, mech, d.initial(plain("", "passer", "secret")))
					if l := c.line(); !strings.HasPrefix(l, tc.answer) {
						t.Errorf("%q", l)
					}
					c.Close()
				})
				if !slices.Equal(got, tc.want) {
					t.Errorf("told %q, want %q", got, tc.want)
				}
				if loggedIn := tc.what != "refused"; loggedIn && !slices.Equal(seen, []string{"passer passer"}) || !loggedIn && len(seen) > 0 {
					t.Errorf("logins seen: %q", seen)
				}
			})
		}
	}
}
