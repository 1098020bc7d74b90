package directory

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"mailferry/backend"
)

func popmapFile(t *testing.T, content string) *File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "popmap")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := NewFile(FileOptions{Name: "popmap", Path: path, Popmap: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestPopmap: lines as Perdition's makegdbm takes them.
func TestPopmap(t *testing.T) {
	f := popmapFile(t, "anna:otto@10.0.0.1:1143\nbernd:old1\n\nnothing\n#carla:old2:x\nbernd:old9\n@example.org:[::1]:143\n")
	for name, want := range map[string][2]string{
		"anna": {"otto", "10.0.0.1:1143"}, "bernd": {"bernd", "old1"}, "#carla": {"#carla", "old2:x"}, "@example.org": {"@example.org", "[::1]:143"},
	} {
		e, err := f.Lookup(t.Context(), name)
		if err != nil || e.User != want[0] || e.Store != want[1] || e.CheckPassword {
			t.Errorf("%s: %+v %v, want %v", name, e, err, want)
		}
	}
	for _, name := range []string{"Anna", "otto", "nothing"} {
		if _, err := f.Lookup(t.Context(), name); !backend.IsKind(err, backend.KindNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNames: by which name the directory is asked, and which one comes out.
func TestNames(t *testing.T) {
	f := popmapFile(t, "anna:old1\nbernd:Otto@old2\nanna@example.org:old3\n@other.org:old4\n")
	for _, c := range []struct {
		o                 NamesOptions
		name, user, store string // store empty: nobody
	}{
		{NamesOptions{}, "anna", "anna", "old1"},
		{NamesOptions{}, "bernd", "Otto", "old2"},
		{NamesOptions{AsGiven: true}, "bernd", "bernd", "old2"},
		{NamesOptions{Lookup: NameForm{StripDomain: true}}, "anna@x.org", "anna@x.org", "old1"},
		{NamesOptions{Lookup: NameForm{StripDomain: true}}, "a@b@c", "", ""},
		{NamesOptions{Lookup: NameForm{StripDomain: true}, Login: NameForm{StripDomain: true}}, "bernd@x", "Otto", "old2"},
		{NamesOptions{Lookup: NameForm{LowerCase: true}, Login: NameForm{LowerCase: true}}, "BERND", "otto", "old2"},
		{NamesOptions{Lookup: NameForm{AddDomain: "example.org"}}, "anna", "anna", "old3"},
		{NamesOptions{Lookup: NameForm{AddDomain: "example.org"}}, "anna@x", "", ""},
		{NamesOptions{Lookup: NameForm{StripDomain: true, AddDomain: "example.org"}, Login: NameForm{StripDomain: true}}, "anna@x", "anna", "old3"},
		{NamesOptions{Key: "{delimiter}{domain}"}, "anyone@other.org", "anyone@other.org", "old4"},
		{NamesOptions{Key: "{domain}"}, "anna", "", ""},
		{NamesOptions{Delimiter: "%", Key: "{local}"}, "anna%other", "anna%other", "old1"},
	} {
		e, err := NewNames(f, c.o).Lookup(t.Context(), c.name)
		if c.store == "" && backend.IsKind(err, backend.KindNotFound) {
			continue
		}
		if err != nil || e.User != c.user || e.Store != c.store {
			t.Errorf("%+v %s: %+v %v, want %s on %q", c.o, c.name, e, err, c.user, c.store)
		}
	}
}

// TestNamesKeepTheDirectory: checks, writes and listings go to the directory
// by its own name for the user.
func TestNamesKeepTheDirectory(t *testing.T) {
	f, _ := openFile(t, "users", passwd)
	n := NewNames(f, NamesOptions{Lookup: NameForm{StripDomain: true}, Login: NameForm{AddDomain: "example.org"}})
	e, err := n.Lookup(t.Context(), "Anna@x")
	if err != nil || e.User != "anna@example.org" {
		t.Fatal(e, err)
	}
	if err := n.Authenticate(t.Context(), e, "secret"); err != nil {
		t.Error(err)
	}
	if err := n.Authenticate(t.Context(), e, "wrong"); !backend.IsKind(err, backend.KindAuthentication) {
		t.Error(err)
	}
	if err := n.SetStore(t.Context(), e, "new1"); err != nil {
		t.Error(err)
	}
	for e, err := range n.Users(t.Context(), "") {
		if err != nil || e.User != "anna@example.org" || e.Store != "new1" {
			t.Error(e, err)
		}
		break
	}
	for _, err := range NewNames(f, NamesOptions{AsGiven: true}).Users(t.Context(), "") {
		if !backend.IsKind(err, backend.KindInvalid) {
			t.Error("names of clients were listed")
		}
	}
}
