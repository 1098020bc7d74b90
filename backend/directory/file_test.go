package directory

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mailferry/backend"
)

const passwd = `# users
anna:{PLAIN}secret:old1
otto:{PLAIN}secret:old1:yes
bernd:{PLAIN}secret
`

const csvUsers = `user,password,store,disabled
anna,{PLAIN}secret,old1,
otto,{PLAIN}secret,old1,yes
bernd,{PLAIN}secret,,
`

func openFile(t *testing.T, name, content string) (*File, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if content != "" {
		rewrite(t, path, content)
	}
	f, err := NewFile(FileOptions{Name: "file", Path: path, Write: true, CheckInterval: -1})
	if err != nil {
		t.Fatal(err)
	}
	return f, path
}

// rewrite replaces the file as editors do, so that it is another file even
// within one tick of the clock.
func rewrite(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func TestFileLines(t *testing.T) {
	testDirectory(t, func(t *testing.T) subject {
		f, path := openFile(t, "users", passwd)
		return subject{dir: f, away: func() { os.Remove(path) }}
	})
}

func TestFileCSV(t *testing.T) {
	testDirectory(t, func(t *testing.T) subject {
		f, path := openFile(t, "users.csv", csvUsers)
		return subject{dir: f, away: func() { rewrite(t, path, "user\n\"") }}
	})
}

func TestFileReload(t *testing.T) {
	f, path := openFile(t, "users", passwd)
	lookup := func(name string) (backend.Entry, error) { return f.Lookup(t.Context(), name) }
	if _, err := lookup("carla"); !backend.IsKind(err, backend.KindNotFound) {
		t.Fatal(err)
	}
	rewrite(t, path, passwd+"carla::home\n")
	e, err := lookup("carla")
	if err != nil || e.Store != "home" || e.CheckPassword {
		t.Fatalf("%+v, %v", e, err)
	}
	rewrite(t, path, "bad\x01name:x:y\n")
	if _, err := lookup("carla"); err != nil {
		t.Errorf("a bad file dropped the good content: %v", err)
	}
	os.Remove(path)
	if _, err := lookup("carla"); err != nil {
		t.Errorf("a missing file dropped the good content: %v", err)
	}
}

func TestFileAmbiguous(t *testing.T) {
	f, _ := openFile(t, "users", "anna:x:a\nAnna:x:b\notto:x:a::info@example.org\nbernd:x:a::info@example.org\n")
	for _, name := range []string{"anna", "info@example.org"} {
		if e, err := f.Lookup(t.Context(), name); !backend.IsKind(err, backend.KindConflict) {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
	if _, err := f.Lookup(t.Context(), "otto"); err != nil {
		t.Errorf("an unambiguous user: %v", err)
	}
}

func TestFileSetStoreKeepsOtherLines(t *testing.T) {
	f, path := openFile(t, "users", passwd)
	if err := f.SetStore(t.Context(), backend.Entry{User: "anna"}, "home"); err != nil {
		t.Fatal(err)
	}
	got, _ := os.ReadFile(path)
	if want := strings.Replace(passwd, "anna:{PLAIN}secret:old1", "anna:{PLAIN}secret:home", 1); string(got) != want {
		t.Errorf("file is now\n%s", got)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
}

func TestHashes(t *testing.T) {
	tests := map[string]bool{
		"{PLAIN}secret":                        true,
		"{SSHA}" + ssha("secret", "salt"):      true,
		"{SSHA}" + ssha("other", "salt"):       false,
		"{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=":    true,
		"$2a$04$hKeJ1ZHjXnbNiWqKBSlpZe0Z7jV6h": false, // cut off
		"$1$abcdefgh$":                         false,
		"*":                                    false,
		"!":                                    false,
		"":                                     false,
		"{NOSUCH}secret":                       false,
		"secret":                               false,
		"{SSHA}c2hvcnQ=":                       false,
		bcryptOf("secret"):                     true,
		"{CRYPT}" + bcryptOf("secret"):         true,
		bcryptOf("other"):                      false,
	}
	for stored, want := range tests {
		if got := verifyHash(stored, "secret"); got != want {
			t.Errorf("%s: %v, want %v", stored, got, want)
		}
	}
}
