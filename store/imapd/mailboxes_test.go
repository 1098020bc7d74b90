package imapd_test

import (
	"context"
	"strings"
	"testing"

	"mailferry/backend"
	"mailferry/store"
)

// moved gives anna the namespace of the store that she came from.
func (w *world) moved(ns backend.Namespace) {
	w.t.Helper()
	_, err := w.store.UpdateUser(context.Background(), "anna", func(u *store.User) error {
		u.Namespace = ns
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func TestMailboxes(t *testing.T) {
	c := newWorld(t).login()
	c.is(`LIST (\Noselect) "/" ""|OK`, `LIST "" ""`)
	c.is(`NAMESPACE (("" "/")) NIL NIL|OK`, "NAMESPACE")
	c.ok("CREATE Entw&APw-rfe/2026/")
	c.is("NO [ALREADYEXISTS]", "CREATE Entw&APw-rfe/2026")
	c.is("NO [CANNOT]", "CREATE Entw&fe")
	c.is("NO [CANNOT]", `CREATE "a//b"`)
	c.is(`LIST (\HasChildren) "/" Entw&APw-rfe|OK`, `LIST "" Entw*rfe`)
	c.is(`LIST (\HasNoChildren) "/" Entw&APw-rfe/2026|OK`, `LIST Entw&APw-rfe/ %%`)
	c.is(`LIST (\HasNoChildren) "/" INBOX|OK`, `LIST "" inbox`)
	c.is(`LIST (\HasNoChildren \Drafts) "/" Drafts|LIST (\HasNoChildren \Trash) "/" Trash|OK`, `LIST (SPECIAL-USE) "" (D* T* E*)`)
	c.ok("SUBSCRIBE Entw&APw-rfe/2026")
	c.ok("SUBSCRIBE INBOX")
	c.is(`LSUB (\Noselect) "/" Entw&APw-rfe|OK`, `LSUB "" E%%`)
	c.is(`LSUB () "/" Entw&APw-rfe/2026|OK`, `LSUB "" E*`)
	c.is(`LIST (\HasNoChildren \Subscribed) "/" INBOX|OK`, `LIST (SUBSCRIBED) "" I*`)
	c.is(`LIST (\HasNoChildren) "/" INBOX|STATUS INBOX (MESSAGES 0 SIZE 0)|OK`, `LIST "" INBOX RETURN (STATUS (MESSAGES SIZE))`)
	c.ok("RENAME Entw&APw-rfe Alt")
	c.is(`LIST (\HasNoChildren) "/" Alt/2026|OK`, `LIST "" Alt/*`)
	c.ok("DELETE Alt/2026")
	c.is(`NO`, "DELETE INBOX")
	c.is(`LIST (\NonExistent \HasNoChildren \Subscribed) "/" Entw&APw-rfe/2026|OK`, `LIST (SUBSCRIBED) "" E*`)
	c.ok("UNSUBSCRIBE Entw&APw-rfe/2026")
	c.is(`OK`, `LSUB "" E*`)
	c.ok(`CREATE Important (USE (\Important))`)
	c.is(`NO [USEATTR]`, `CREATE X (USE (\Bogus))`)
}

func TestNamespaceOfTheOldStore(t *testing.T) {
	w := newWorld(t)
	w.moved(backend.Namespace{Prefix: "INBOX.", Delimiter: "."})
	c := w.login()
	c.is(`NAMESPACE (("INBOX." ".")) NIL NIL|OK`, "NAMESPACE")
	c.is(`LIST (\HasChildren) "." INBOX|OK`, `LIST "" %%`)
	c.ok("CREATE INBOX.a.b")
	c.is(`LIST (\HasChildren) "." INBOX.a|OK`, `LIST "" Inbox.a`)
	c.is(`NO [CANNOT]`, "CREATE outside")
	c.ok("SELECT inbox.a.b")
	c.is(`STATUS INBOX.a.b (MESSAGES 0)|OK`, "STATUS INBOX.a.b (MESSAGES)")
	u := strings.Join(c.ok(`LIST "" *`), "|")
	for _, want := range []string{`"." INBOX`, `"." INBOX.Drafts`, `"." INBOX.a.b`} {
		if !strings.Contains(u, want) {
			t.Errorf("no %s in %s", want, u)
		}
	}
}

func TestSearch(t *testing.T) {
	w := newWorld(t)
	c := w.login()
	c.append("INBOX", `\Seen`, mail("apple"))
	c.append("INBOX", `\Flagged $Work`, "From: =?iso-8859-1?Q?J=FCrgen?= <j@x>\r\nSubject: =?utf-8?B?w4RwZmVs?=\r\nDate: Tue, 3 Mar 2026 23:30:00 -0800\r\n"+
		"Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nsch=F6ne Gr=FC=\r\n=DFe\r\n")
	c.append("INBOX", "", "Subject: parts\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Transfer-Encoding: base64\r\n\r\naGlkZGVu\r\nIHdvcmQ=\r\n--b\r\n"+
		"Content-Type: application/octet-stream\r\n\r\nbinary apple\r\n--b--\r\n")
	c.ok("SELECT INBOX")
	c.is("OK [HIGHESTMODSEQ 4]", "SEARCH MODSEQ 1")
	for _, tc := range []struct{ query, want string }{
		{"ALL", " 1 2 3"}, {"SEEN", " 1"}, {"UNSEEN", " 2 3"}, {"KEYWORD $work", " 2"}, {"UNKEYWORD $Work", " 1 3"},
		{"FLAGGED UNSEEN", " 2"}, {"OR SEEN FLAGGED", " 1 2"}, {"NOT (SEEN)", " 2 3"}, {"NOT NOT SEEN", " 1"},
		{"2:*", " 2 3"}, {"UID 1,3", " 1 3"}, {"NOT 1", " 2 3"}, {"5:9", ""}, {"UID 9:*", " 3"},
		{"SUBJECT APPLE", " 1"}, {`SUBJECT ""`, " 1 2 3"}, {"CHARSET UTF-8 SUBJECT {6+}\r\näpfel", " 2"},
		{"FROM jürgen", " 2"}, {"HEADER Message-ID apple@", " 1"}, {`HEADER X-None ""`, ""}, {`HEADER Message-ID ""`, " 1"},
		{"BODY \"schöne grüße\"", " 2"}, {"BODY \"hidden word\"", " 3"}, {"BODY binary", ""}, {"TEXT apple", " 1"}, {"TEXT octet-stream", " 3"},
		{"LARGER 10", " 1 2 3"}, {"SMALLER 10", ""}, {"SENTON 3-Mar-2026", " 2"}, {"SENTBEFORE 3-Mar-2026", " 1"}, {"SENTSINCE 2-Mar-2026", " 1 2"},
		{"SINCE 1-Jan-2020", " 1 2 3"}, {"BEFORE 1-Jan-2020", ""}, {"YOUNGER 3600", " 1 2 3"}, {"OLDER 3600", ""}, {"MODSEQ 1", " 1 2 3"},
	} {
		u, tagged := c.cmd("SEARCH %s", tc.query)
		if !strings.HasPrefix(tagged, "OK") || len(u) != 1 {
			t.Errorf("%s: %q %s", tc.query, u, tagged)
			continue
		}
		got, _, _ := strings.Cut(u[0], " (MODSEQ")
		if got != "SEARCH"+tc.want {
			t.Errorf("%s: %s, want%s", tc.query, u[0], tc.want)
		}
	}
	c.is(`ESEARCH (TAG "t`, "SEARCH RETURN (MIN MAX COUNT ALL) UNSEEN")
	c.is(`OK`, "UID SEARCH RETURN (SAVE) UNSEEN")
	c.is("2 FETCH (UID 2)|3 FETCH (UID 3)|OK", "FETCH $ UID")
	c.is("NO [BADCHARSET", "SEARCH CHARSET KOI8-R ALL")
	c.is("BAD", "SEARCH NONSENSE")
	c.is("BAD", "SEARCH %sALL", strings.Repeat("NOT ", 200))
}
