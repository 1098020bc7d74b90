package migrate

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestTrapsAreTested holds docs/traps.md to its word.
func TestTrapsAreTested(t *testing.T) {
	page, err := os.ReadFile("../docs/traps.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := make(map[string]bool)
	decl := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err = filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range decl.FindAllSubmatch(text, -1) {
			tests[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	number, named := 0, regexp.MustCompile("`((?:Test|Fuzz)\\w+)`")
	for line := range strings.Lines(string(page)) {
		names := named.FindAllStringSubmatch(line, -1)
		if strings.HasPrefix(line, fmt.Sprintf("| %d |", number+1)) {
			if number++; len(names) == 0 {
				t.Errorf("trap %d has no test", number)
			}
		}
		for _, m := range names {
			if !tests[m[1]] {
				t.Errorf("there is no %s: %s", m[1], line)
			}
		}
	}
	if number != 54 {
		t.Errorf("%d traps", number)
	}
}
