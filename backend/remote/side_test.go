package remote

import (
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"

	"mailferry/backend"
)

// TestSideOfOddServers: refusals and nonsense cost themselves; what is told
// before and behind them stands.
func TestSideOfOddServers(t *testing.T) {
	big := strings.Repeat("x", backend.MaxSideValue+1)
	c := client(t, "ACL QUOTA METADATA", func(s *script) {
		s.ok("GETMETADATA", `* METADATA "" (/shared/motd {5}`+"\r\n"+`a"b)c /private/none NIL)`)
		s.ok("GETACL", `* ACL INBOX anna rlwr "a b" {2}`+"\r\nlr", `* ACL INBOX bert`)
		s.ok("GETMETADATA", `* METADATA INBOX (/SHARED/Comment "v" /shared/vendor/cmu/cyrus-imapd/size "17")`,
			`* METADATA INBOX (/shared/big {`+fmt.Sprint(len(big))+"}\r\n"+big+` /shared/more "w")`, `* METADATA INBOX /shared/changed`)
		s.ok("GETQUOTAROOT", `* QUOTAROOT INBOX "" "root two"`, `* QUOTA "" (STORAGE 10 512 MESSAGE 1 100)`, `* QUOTA "root two" ()`,
			`* QUOTA bad (STORAGE x)`)
		tag := s.want("GETACL")
		s.send(tag + " NO [NOPERM] not yours")
		tag = s.want("GETMETADATA")
		s.send(tag + " BAD what")
		s.ok("GETQUOTAROOT")
	})
	got, err := c.Side(t.Context(), []string{"INBOX", "Other"})
	if err != nil {
		t.Fatal(err)
	}
	want := &Side{
		ACLs: map[string][]backend.ACLEntry{"INBOX": {{Identifier: "a b", Rights: "lr"}, {Identifier: "anna", Rights: "lrw"}}},
		Metadata: map[string][]backend.MetadataEntry{"": {{Name: "/shared/motd", Value: []byte(`a"b)c`)}},
			"INBOX": {{Name: "/shared/comment", Value: []byte("v")}, {Name: "/shared/more", Value: []byte("w")}}},
		Quotas: []backend.QuotaRoot{{Root: "", Limits: []backend.QuotaLimit{{Resource: "STORAGE", Usage: 10, Limit: 512}, {Resource: "MESSAGE", Usage: 1, Limit: 100}}},
			{Root: "root two"}},
	}
	if !reflect.DeepEqual(got.ACLs, want.ACLs) || !reflect.DeepEqual(got.Metadata, want.Metadata) || !reflect.DeepEqual(got.Quotas, want.Quotas) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if len(got.Refused) != 2 || got.Refused[0].Mailbox != "Other" || len(got.TooLarge) != 1 || got.TooLarge[0].What != "/shared/big" {
		t.Errorf("refused %+v, too large %+v", got.Refused, got.TooLarge)
	}
}

// TestScripts reads names and scripts in every form that RFC 5804 allows.
func TestScripts(t *testing.T) {
	store := serve(t, func(s *script) {
		s.send(`"SASL" "PLAIN"`, "OK")
		s.line() // AUTHENTICATE
		s.send("OK")
		s.exact("LISTSCRIPTS")
		s.send(`"a \"b\"" ACTIVE`, "{3}", "\xc3\xa4x", `"empty"`, `OK "done"`)
		s.exact(`GETSCRIPT "a \"b\""`)
		s.send("{9}", "keep;", "{5", "", "OK (WARNINGS) {2}", "no")
		s.exact("GETSCRIPT {3+}")
		s.exact("\xc3\xa4x")
		s.send(`"stop;\\"`, "OK")
		s.exact(`GETSCRIPT "empty"`)
		s.send("{0}", "", "OK")
	})
	conn, err := DialManageSieve(t.Context(), Target{Store: store, User: "anna", Password: "x"})
	if err != nil {
		t.Fatal(err)
	}
	got, large, err := Scripts(t.Context(), conn)
	want := []backend.SieveScript{{Name: `a "b"`, Text: []byte("keep;\r\n{5"), Active: true}, {Name: "empty", Text: []byte{}}, {Name: "\xc3\xa4x", Text: []byte(`stop;\`)}}
	if err != nil || len(large) != 0 || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v, %v", got, large, err)
	}
}

// TestMaildrop reads what POP3 servers list, and refuses what is none.
func TestMaildrop(t *testing.T) {
	for name, tt := range map[string]struct {
		lines []string
		want  string // "number id size", a line each; empty: an error
	}{
		"plain":        {[]string{"+OK", "1 a", "3 b c ", ".", "+OK", "1 10", "2 5", "3 20 junk", "."}, "1 a 10\n3 b c  20\n"},
		"empty":        {[]string{"+OK", ".", "+OK", "."}, "empty"},
		"no UIDL":      {[]string{"-ERR what", "+OK", "1 10", "2 20", "."}, "1  10\n2  20\n"},
		"no LIST":      {[]string{"+OK", "1 a", ".", "-ERR no"}, "1 a 0\n"},
		"neither":      {[]string{"-ERR no", "-ERR no"}, ""},
		"twice":        {[]string{"+OK", "1 a", "1 b", ".", "+OK", "."}, ""},
		"a line of it": {[]string{"+OK", "one a", "."}, ""},
		"cut off":      {[]string{"+OK", "1 a"}, ""},
		"huge number":  {[]string{"+OK", "99999999999 a", "."}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			store := serve(t, func(s *script) {
				s.send("+OK hi")
				s.exact("USER anna")
				s.send("+OK")
				s.exact("PASS x")
				s.send("+OK")
				s.exact("UIDL")
				s.exact("LIST")
				s.send(tt.lines...)
				if tt.want != "" {
					s.exact("TOP 7 0")
					s.send("+OK", "Subject: ..x", "..", "", ".")
					s.exact("TOP 9 0")
					s.send("-ERR gone")
					s.exact("QUIT")
				}
			})
			conn, err := DialPOP3(t.Context(), Target{Store: store, User: "anna", Password: "x"})
			if err != nil {
				t.Fatal(err)
			}
			c := NewPOP3Client(conn)
			m, err := c.Maildrop(t.Context())
			if tt.want == "" {
				if err == nil || backend.KindOf(err) != backend.KindUnavailable {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for i := range m.Len() {
				got += fmt.Sprintln(m.Number(i), m.UIDL(i), m.Size(i))
			}
			if want := strings.TrimPrefix(tt.want, "empty"); got != want {
				t.Errorf("%q, want %q", got, want)
			}
			headers := []string{"", "refused"}
			err = c.Top(t.Context(), []int{7, 9}, func(i int, r io.Reader) error {
				if r == nil {
					return nil
				}
				b, err := io.ReadAll(r)
				headers[i] = string(b)
				return err
			})
			if err != nil || headers[0] != "Subject: ..x\n.\n\n" || headers[1] != "refused" {
				t.Errorf("headers %q, %v", headers, err)
			}
			c.Close(t.Context())
		})
	}
}
