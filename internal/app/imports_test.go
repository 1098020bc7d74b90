package app

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// never lists imports that would tangle the rooms, and why each is out.
var never = []struct{ from, to, why string }{
	{"proxy", "migrate", "they meet in the placement record only"},
	{"migrate", "proxy", "they meet in the placement record only"},
	{"store", "proxy", "a store does not know who stands before it"},
	{"store", "migrate", "a store does not know who fills it"},
	{"store", "cluster", "a store knows the engine's interface only"},
	{"cluster", "store", "the cluster knows names, epochs and bytes, not mail"},
	{"cluster", "backend", "the cluster knows names, epochs and bytes, not mail"},
	{"cluster", "proxy", "the cluster knows names, epochs and bytes, not mail"},
	{"sieve", "store", "the language knows no store"},
	{"proxy", "store", "our own store is reached like any other"},
	{"migrate", "store", "our own store is filled through backend.Importer"},
	{"backend", "store", "the contract knows no implementation"},
	{"backend", "proxy", "the contract knows no implementation"},
	{"backend", "migrate", "the contract knows no implementation"},
	{"backend", "cluster", "the contract knows no implementation"},
}

// exceptions of the list: the engine's interface is there for the store.
var exceptions = map[string][]string{"store": {"cluster/engine"}}

// onlyIn names rooms whose packages are for few: the viper of config, the
// wiring of app, the fakes of mailtest.
var onlyIn = []struct {
	to   string
	from []string
	why  string
}{
	{"github.com/spf13/viper", []string{"internal/config"}, "settings are typed at load"},
	{"mailferry/internal/app", []string{"internal/app", "cmd"}, "nothing depends on the wiring"},
	{"mailferry/cluster", []string{"cluster", "internal/app", "store", "bench"}, "only app joins store and cluster"},
	{"go.etcd.io/raft", []string{"cluster"}, "consensus stays behind the engine"},
}

// TestImportsGoOneWay reads every file's imports; tests of a room may use what
// its code may not.
func TestImportsGoOneWay(t *testing.T) {
	const root = "../.."
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && d.Name() != ".." || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			checkImport(t, filepath.ToSlash(rel), imported)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func checkImport(t *testing.T, file, imported string) {
	t.Helper()
	dir := path.Dir(file)
	if own, ok := strings.CutPrefix(imported, "mailferry/"); ok {
		for _, n := range never {
			if in(dir, n.from) && in(own, n.to) && !excepted(n.from, own) {
				t.Errorf("%s imports %s: %s", file, own, n.why)
			}
		}
		if in(own, "internal/mailtest") && !in(dir, "internal/mailtest") && !in(dir, "bench") {
			t.Errorf("%s imports %s: peers are for tests", file, own)
		}
	}
	for _, o := range onlyIn {
		if !in(imported, o.to) {
			continue
		}
		allowed := false
		for _, from := range o.from {
			allowed = allowed || in(dir, from)
		}
		if !allowed {
			t.Errorf("%s imports %s: %s", file, imported, o.why)
		}
	}
}

func excepted(from, imported string) bool {
	for _, e := range exceptions[from] {
		if in(imported, e) {
			return true
		}
	}
	return false
}

// in reports whether pkg is room or below it.
func in(pkg, room string) bool { return pkg == room || strings.HasPrefix(pkg, room+"/") }
