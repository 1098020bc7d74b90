package proxy

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"mailferry/backend"
	"mailferry/internal/mailtest"
)

// realClients are programs that users and providers have. Each does its work
// for one user of a store, directly or through the proxy. expect is what its
// output must have in any case.
var realClients = []struct {
	name   string
	proto  backend.Protocol
	run    func(t *testing.T, r realStore, a mailtest.Account) mailtest.Ran
	expect string
}{
	{"mbsync", backend.IMAP, runMbsync, "INBOX"},
	{"mutt", backend.IMAP, func(t *testing.T, _ realStore, a mailtest.Account) mailtest.Ran {
		return mailtest.Ran{Got: mailtest.MuttRead(t, a)}
	}, "Subject: parts"},
	{"curl imap", backend.IMAP, runCurlIMAP, "Subject: parts"},
	{"fetchmail imap", backend.IMAP, func(t *testing.T, _ realStore, a mailtest.Account) mailtest.Ran {
		return mailtest.Fetchmail(t, "imap", a)
	}, "Subject: parts"},
	{"getmail imap", backend.IMAP, func(t *testing.T, _ realStore, a mailtest.Account) mailtest.Ran {
		return mailtest.NewGetmail(t, "IMAP", a, true).Run(t)
	}, "Subject: parts"},
	{"imapfilter", backend.IMAP, func(t *testing.T, r realStore, a mailtest.Account) mailtest.Ran {
		return mailtest.Imapfilter(t, a, strings.ReplaceAll(r.prefix, r.sep, "/")+"Filtered")
	}, "found"},
	{"imapflow", backend.IMAP, func(t *testing.T, r realStore, a mailtest.Account) mailtest.Ran {
		return mailtest.ImapFlow(t, a, r.prefix+"Flow")
	}, "deleted"},
	{"curl pop3", backend.POP3, runCurlPOP3, "Subject: parts"},
	{"fetchmail pop3", backend.POP3, func(t *testing.T, _ realStore, a mailtest.Account) mailtest.Ran {
		return mailtest.Fetchmail(t, "pop3", a)
	}, "Subject: parts"},
	{"getmail pop3", backend.POP3, func(t *testing.T, _ realStore, a mailtest.Account) mailtest.Ran {
		return mailtest.NewGetmail(t, "POP3", a, true).Run(t)
	}, "Subject: parts"},
	{"sieve-connect", backend.ManageSieve, runSieveConnect, "keep;"},
	{"swaks", backend.LMTP, runSwaks, "<-  250"},
}

// TestTransparencyClients: real clients have the same exit code, print the same
// and fetch the same octets, directly and through the proxy.
func TestTransparencyClients(t *testing.T) {
	mailtest.Require(t, "mbsync", "mutt", "curl", "fetchmail", "getmail", "imapfilter", "imapflow", "sieve-connect", "swaks")
	for name, start := range map[string]func(*testing.T) realStore{"dovecot": realDovecot, "cyrus": realCyrus, "courier": realCourier, "own": realOwn} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // programs that wait for each other
			if name != "own" {
				mailtest.Require(t, name)
			}
			r := start(t)
			r.store.TLS = backend.TLSNone
			through := map[backend.Protocol]string{}
			for _, proto := range []*protocol{&imap, &pop3, &managesieve} {
				through[proto.name] = r.serve(t, proto)
			}
			through[backend.LMTP] = r.serveLMTP(t)
			validity := map[string]int{"anna": r.fillINBOX(t, "anna"), "bert": r.fillINBOX(t, "bert")}
			for _, c := range realClients {
				port := r.store.Ports[c.proto]
				if port == 0 {
					continue
				}
				direct := c.run(t, r, mailtest.Account{Addr: "127.0.0.1:" + strconv.Itoa(port), User: "anna", Password: "secret"})
				proxied := c.run(t, r, mailtest.Account{Addr: through[c.proto], User: "bert", Password: "secret"})
				d, p := clientView(direct, port, validity["anna"]), clientView(proxied, portOf(t, through[c.proto]), validity["bert"])
				if d != p {
					t.Errorf("%s:\ndirect            %s\nthrough the proxy %s", c.name, d, p)
				}
				if direct.Code != 0 || !strings.Contains(d, c.expect) {
					t.Errorf("%s did not do its work: %s", c.name, d)
				}
			}
		})
	}
}

// fillINBOX gives a user mail and returns the INBOX' UIDVALIDITY.
func (r realStore) fillINBOX(t *testing.T, user string) (validity int) {
	t.Helper()
	c := mailtest.DialIMAP(t, r.addr)
	defer c.Close()
	c.Login(user, "secret")
	for i, m := range []string{plainMail, multiMail, "Subject: dots\r\n\r\n.\r\n..\r\n.x\r\n", "Subject: long\r\n\r\n" + strings.Repeat("long line ", 90) + "\r\n"} {
		c.Append("INBOX", map[int]string{1: `\Seen`}[i], time.Date(2005, 1, 1+i, 0, 0, 0, 0, time.UTC), []byte(m))
	}
	status := strings.Join(c.Cmd("STATUS INBOX (UIDVALIDITY)"), "")
	m := validityIs.FindStringSubmatch(status)
	if m == nil {
		t.Fatalf("STATUS: %q", status)
	}
	c.Cmd("LOGOUT")
	validity, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return validity
}

// What differs between any two runs of a client.
var (
	clientTimes = regexp.MustCompile(`(?m)^(From [^ ]+ +\w{3} \w{3} .*|Received: .*(\n[ \t].*)*|.*Getting messages.*)$`)
	clientNoise = regexp.MustCompile(`\b17\d{8}\b|/tmp/[^ \n"']*|\d+\.\d+ ?s\b|\d+\.\d+ secs?`)
)

// clientView is a run without what differs between any two runs: the user's
// name, ports, UIDVALIDITY, clocks, paths of the test.
func clientView(r mailtest.Ran, port, validity int) string {
	s := fmt.Sprintf("exit %d\n%s\n%s", r.Code, r.Output, r.Got)
	s = strings.NewReplacer("bert", "anna", strconv.Itoa(port), "PORT", strconv.Itoa(validity), "VALIDITY", fmt.Sprintf("%08x", validity), "VALIDITY").Replace(s)
	return clientNoise.ReplaceAllString(clientTimes.ReplaceAllString(s, "-"), "-")
}

func runMbsync(t *testing.T, _ realStore, a mailtest.Account) mailtest.Ran {
	m := mailtest.NewMbsync(t, a)
	s := m.Run(t)
	var found []string
	for folder, digests := range m.Digests(t) {
		for d, n := range digests {
			found = append(found, fmt.Sprintf("%s %x %d", folder, d, n))
		}
	}
	slices.Sort(found)
	return mailtest.Ran{Output: s.Output, Got: strings.Join(found, "\n")}
}

func runCurlIMAP(t *testing.T, _ realStore, a mailtest.Account) mailtest.Ran {
	url, login := "imap://"+a.Addr+"/", a.User+":"+a.Password
	return mailtest.Ran{Got: mailtest.Curl(t, nil, "-u", login, url) + mailtest.Curl(t, nil, "-u", login, url+"INBOX;MAILINDEX=2") +
		mailtest.Curl(t, nil, "-u", login, url+"INBOX?SUBJECT%20parts") + mailtest.Curl(t, nil, "-u", login, url+"INBOX", "-X", "FETCH 1:* (UID FLAGS)") +
		mailtest.Curl(t, nil, "-u", login, "--login-options", "AUTH=PLAIN", url+"INBOX;UID=1/;SECTION=HEADER.FIELDS%20(Subject)")}
}

func runCurlPOP3(t *testing.T, _ realStore, a mailtest.Account) mailtest.Ran {
	url, login := "pop3://"+a.Addr+"/", a.User+":"+a.Password
	return mailtest.Ran{Got: mailtest.Curl(t, nil, "-u", login, url) + mailtest.Curl(t, nil, "-u", login, url+"2") + mailtest.Curl(t, nil, "-u", login, url+"3") +
		mailtest.Curl(t, nil, "-u", login, "-X", "UIDL", url)}
}

// runSieveConnect uploads a script, makes it the active one and fetches it.
func runSieveConnect(t *testing.T, _ realStore, a mailtest.Account) mailtest.Ran {
	dir := t.TempDir()
	script, back := filepath.Join(dir, "mine"), filepath.Join(dir, "back")
	if err := os.WriteFile(script, []byte("# mine\nkeep;\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var all mailtest.Ran
	for _, action := range [][]string{
		{"--upload", "--localsieve", script, "--remotesieve", "mine"},
		{"--activate", "--remotesieve", "mine"}, {"--list"}, {"--download", "--remotesieve", "mine", "--localsieve", back},
		{"--delete", "--remotesieve", "none"},
	} {
		one := mailtest.SieveConnect(t, a, action...)
		all.Output += fmt.Sprintf("%s: exit %d\n%s\n", action[0], one.Code, one.Output)
	}
	b, err := os.ReadFile(back)
	all.Got = fmt.Sprint(string(b), err)
	return all
}

// runSwaks sends one message to two users and one to nobody. Of the replies
// the codes are kept: the texts are each server's own.
func runSwaks(t *testing.T, _ realStore, a mailtest.Account) mailtest.Ran {
	var all mailtest.Ran
	for _, to := range []string{"anna@example.org,bert@example.org", "nobody@example.org"} {
		one := mailtest.Swaks(t, a.Addr, to, "Subject: swaks\r\n\r\n.dot\r\nx\r\n")
		all.Output += fmt.Sprintf("%s: exit %d\n", to, one.Code)
		for l := range strings.Lines(one.Output) {
			l = strings.TrimRight(l, "\n")
			switch {
			case strings.HasPrefix(l, "<") && len(l) > 7 && l[7] == ' ':
				all.Output += l[:7] + "\n"
			case strings.HasPrefix(l, " ->"):
				all.Output += l + "\n"
			}
		}
	}
	return all
}
