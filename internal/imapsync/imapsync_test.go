package imapsync

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mailferry/backend"
	"mailferry/migrate/target"
)

func TestSplit(t *testing.T) {
	for line, want := range map[string][]string{
		`imapsync --host1 a  --host2 'b c' --regextrans2 "s/\"x\"/\$y\\/"`: {"imapsync", "--host1", "a", "--host2", "b c", "--regextrans2", `s/"x"/$y\/`},
		"a \\\n  b":           {"a", "b"},
		`--password1 '' x`:    {"--password1", "", "x"},
		`s/a\ b/c/ 'it'\''s'`: {"s/a b/c/", "it's"},
		"  ":                  nil,
	} {
		got, err := Split(line)
		if err != nil || !cmp.Equal(got, want) {
			t.Errorf("%q: %q, %v; want %q", line, got, err, want)
		}
	}
	if _, err := Split(`a "b`); err == nil {
		t.Error("an open quote is taken")
	}
}

func TestParse(t *testing.T) {
	words, err := Split(`/usr/bin/imapsync --host1 old --user1 anna --password1=s3cret --nossl1 --notls1 --port1 1143
		--host2 new --user2 anna2 --authuser2 admin --password2 x --sslargs2 SSL_verify_mode=0
		--folder INBOX --folderrec=Work --exclude '^Spam' --f1f2 "A=B" --f1f2 C=D=E --regextrans2 s/x/y/g --automap
		--maxsize 1000 --minsize 10 --maxage 2.5 --search 'UNSEEN' --delete2 --noresyncflags --nosubscribe --useuid --nofoldersizes --dry`)
	if err != nil {
		t.Fatal(err)
	}
	j, err := Parse(words)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Complete(); err != nil {
		t.Error(err)
	}
	f, r := j.Filter, j.Rules
	if !cmp.Equal(f.Mailboxes, []string{"INBOX"}) || !cmp.Equal(f.Trees, []string{"Work"}) || f.MaxSize != 999 || f.MinSize != 11 ||
		f.MaxAge != 60*time.Hour || f.Search != "UNSEEN" || !cmp.Equal(f.Exclude, []string{"^Spam"}) {
		t.Errorf("filter %+v", f)
	}
	if !cmp.Equal(r.Map, map[string]string{"A": "B", "C": "D=E"}) || !r.Automap || !r.Delete || !r.NoFlags || !r.NoSubscribe || r.DeleteFolders {
		t.Errorf("rules %+v", r)
	}
	if !j.Dry || !cmp.Equal(j.Ignored, []string{"useuid", "nofoldersizes"}) {
		t.Errorf("dry %v, ignored %v", j.Dry, j.Ignored)
	}
	from, to := j.From.Store("source"), j.To.Store("target")
	if from.TLS != backend.TLSNone || from.Port(backend.IMAP) != 1143 || from.Login.Mode != backend.LoginUser {
		t.Errorf("from %+v", from)
	}
	if to.TLS != backend.TLSImplicit || to.Port(backend.IMAP) != 993 || to.Login.Mode != backend.LoginAuthzid || to.Login.User != "admin" ||
		!to.TLSConfig.InsecureSkipVerify {
		t.Errorf("to %+v", to)
	}
}

// TestRefused: what would be left out silently is refused by name.
func TestRefused(t *testing.T) {
	for _, args := range []string{"--regexmess s/a/b/", "--delete1", "--addheader", "--frobnicate", "--host1", "word", "--nosyncinternaldates",
		"--synclabels", "--acluser A", "--maxsize x", "--maxage -1", "--regextrans2 s/a/b/e", "--regextrans2 s/(?=a)/b/", "--include (", "--authmech1 CRAM-MD5",
		"--minage 10 --maxage 5", "--f1f2 A", "--sslargs1 SSL_ca_file=x"} {
		j, err := Parse(strings.Fields(args))
		if err == nil {
			t.Errorf("%s: %+v", args, j)
			continue
		}
		if name, _, _ := strings.Cut(strings.TrimLeft(args, "-"), " "); name != "word" && !strings.Contains(err.Error(), name) && !strings.Contains(args, "(") && !strings.Contains(args, "age") {
			t.Errorf("%s: the error does not name it: %v", args, err)
		}
	}
	if _, err := Parse([]string{"--foo", "--bar"}); err == nil || strings.Count(err.Error(), "unknown") != 2 {
		t.Errorf("not every mistake at once: %v", err)
	}
}

// TestGmail: what imapsync does for Gmail, unless another host is said.
func TestGmail(t *testing.T) {
	j, err := Parse(strings.Fields("--host1 gmail.example --gmail1 --user1 a --office2"))
	if err != nil {
		t.Fatal(err)
	}
	if j.From.Host != "gmail.example" || j.From.TLS != backend.TLSImplicit || j.To.Host != "outlook.office365.com" || !j.Rules.Automap || len(j.Rules.Regex) != 1 {
		t.Errorf("%+v", j)
	}
	s, err := target.ParseSubstitution(j.Rules.Regex[0])
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Apply("[Gmail]/Sent Mail"); got != "Sent Mail" {
		t.Errorf("%q", got)
	}
}

func TestOptionsOnce(t *testing.T) {
	seen := map[string]bool{}
	for _, o := range options {
		if o.why == "" && o.says == "" {
			t.Errorf("%v: nothing is said", o.names)
		}
		for _, n := range o.names {
			if seen[n] {
				t.Errorf("--%s is there twice", n)
			}
			seen[n] = true
		}
	}
}

// TestDoc keeps docs/imapsync.md the table that this package has. UPDATE=1 writes it.
func TestDoc(t *testing.T) {
	const path, mark = "../../docs/imapsync.md", "<!-- table -->\n"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, _, ok := strings.Cut(string(b), mark)
	want := head + mark + Table()
	if ok && os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(b) != want {
		t.Errorf("docs/imapsync.md is not the table: UPDATE=1 go test ./internal/imapsync -run TestDoc")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`imapsync --host1 a --regextrans2 's{a}{b}g' --regexflag 'tr/a-z/A-Z/'`)
	f.Fuzz(func(t *testing.T, line string) {
		words, err := Split(line)
		if err == nil {
			for i, w := range words {
				if strings.HasPrefix(w, "--passfile") {
					words[i] = "--dry"
				}
			}
			_, _ = Parse(words)
		}
	})
}
