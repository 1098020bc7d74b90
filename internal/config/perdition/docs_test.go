package perdition

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the table of docs/perdition.md anew")

// TestDocumentedOptions keeps the table of docs/perdition.md true; -update
// writes it.
func TestDocumentedOptions(t *testing.T) {
	const page, heading = "../../../docs/perdition.md", "## Every option\n"
	var b strings.Builder
	b.WriteString("\n| option | ours | remarks |\n| --- | --- | --- |\n")
	for _, o := range options {
		name := "`" + o.long + "`"
		if o.short != 0 {
			name += fmt.Sprintf(", `%c`", o.short)
		}
		to := o.to
		if to == "" {
			to = map[effect]string{kept: "as it is", changed: "as it is", dropped: "not needed", lost: "**none**"}[o.effect]
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", name, to, o.reason)
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, _, ok := strings.Cut(string(text), heading)
	if !ok {
		t.Fatalf("%s has no %q", page, heading)
	}
	want := before + heading + b.String()
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if string(text) != want {
		t.Errorf("%s is not what the program does: go test ./internal/config/perdition -update", page)
	}
}
