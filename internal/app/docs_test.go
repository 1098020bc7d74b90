package app

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// TestDocsNameWhatIsThere: files and folders that the documentation names exist.
func TestDocsNameWhatIsThere(t *testing.T) {
	const root = "../.."
	pages, err := filepath.Glob(root + "/docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`((?:cmd|internal|backend|proxy|migrate|store|cluster|sieve|bench)/[a-z0-9_./]*[a-z0-9_/])`")
	links := regexp.MustCompile(`\]\(([a-z0-9_./-]+\.md)\)`)
	for _, page := range append(pages, root+"/README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range named.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
				t.Errorf("%s names %s: %v", filepath.Base(page), m[1], err)
			}
		}
		for _, m := range links.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", filepath.Base(page), m[1], err)
			}
		}
	}
}
