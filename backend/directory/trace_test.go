package directory

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mailferry/backend"
)

// TestExplain: each kind of directory tells what it was asked and what decided,
// and never a secret.
func TestExplain(t *testing.T) {
	script := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Auth-Pass", "hunter2")
		if r.Header.Get("Auth-User") == "web@example.org" {
			h.Set("Auth-Status", "OK")
			h.Set("Auth-Server", "10.0.0.7")
			return
		}
		h.Set("Auth-Status", "Invalid login")
	}))
	defer script.Close()
	path := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(path, []byte("filed::old1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := NewFile(FileOptions{Name: "list", Path: path})
	if err != nil {
		t.Fatal(err)
	}
	web, err := NewHTTP(HTTPOptions{Name: "web", URL: script.URL, Header: "X-Key", HeaderValue: "hunter2"})
	if err != nil {
		t.Fatal(err)
	}
	defer web.Close()
	rules, err := NewRegex(RegexOptions{Name: "rules", Rules: []RegexRule{{Match: "x.*", Store: "a"}, {Match: "(.*)@rules", Store: "b"}}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewChain(ChainOptions{Directories: []backend.Directory{
		NewNames(file, NamesOptions{Lookup: NameForm{StripDomain: true, LowerCase: true}}), web, rules}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, tt := range []struct {
		name, store, down string
		steps             []string
	}{
		{"Filed@Example.org", "old1", "the same", []string{`"Filed@Example.org" is looked up as "filed"`, "file " + path, "has a line"}},
		{"web@example.org", "10.0.0.7", "temporary failure", []string{"directory list|does not know", "GET " + script.URL + ", Auth-Method: none, Auth-User: web@example.org",
			"Auth-Status: OK; Auth-Server: 10.0.0.7"}},
		{"u@rules", "b", "temporary failure", []string{"Auth-Status: Invalid login", "rule 1|", "does not match", "rule 2|", "and decides"}},
		{"nobody@example.org", "", "temporary failure", []string{"none knows"}},
		{"a\x00b", "", "the same", []string{"nobody can have it"}},
	} {
		x := c.Explain(t.Context(), tt.name)
		text := ""
		for _, s := range x.Steps {
			text += s.Asked + "|" + s.Answered + "\n"
		}
		if (x.Err == nil) != (tt.store != "") || x.Entry.Store != tt.store {
			t.Errorf("%s: %+v %v", tt.name, x.Entry, x.Err)
		}
		if !strings.Contains(x.Down, tt.down) {
			t.Errorf("%s: down: %q", tt.name, x.Down)
		}
		for _, want := range tt.steps {
			if !strings.Contains(text, want) {
				t.Errorf("%s: %q is not in\n%s", tt.name, want, text)
			}
		}
		if strings.Contains(text, "hunter2") {
			t.Errorf("a secret is told:\n%s", text)
		}
	}
	// What was remembered by logins is told, and nothing by Explain itself.
	if x := c.Explain(t.Context(), "web@example.org"); !strings.Contains(x.Steps[0].Answered, "nothing is remembered") {
		t.Errorf("%+v", x.Steps[0])
	}
	if _, err := c.Lookup(t.Context(), "web@example.org"); err != nil {
		t.Fatal(err)
	}
	if x := c.Explain(t.Context(), "web@example.org"); !strings.Contains(x.Steps[0].Answered, "store 10.0.0.7") || !strings.Contains(x.Down, "from the cache") {
		t.Errorf("%+v, down: %s", x.Steps[0], x.Down)
	}
	script.Close()
	c.Invalidate("web@example.org")
	if x := c.Explain(t.Context(), "web@example.org"); x.Err == nil || !strings.Contains(x.Down, "temporary failure") {
		t.Errorf("%v, down: %s", x.Err, x.Down)
	}
}
