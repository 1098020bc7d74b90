package remote

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/emersion/go-imap/v2"
)

func TestFetchItemsReadsAnyForm(t *testing.T) {
	long := strings.Repeat("x", maxValues+1)
	for name, tt := range map[string]struct{ line, want string }{
		"string forms are one": {"* 1 FETCH (UID 5 ENVELOPE (\"a\" {3}\r\nb\"c NIL atom 12))", `ENVELOPE=("a" "b\"c" NIL "atom" "12")`},
		"nested lists":         {"* 1 FETCH (BODYSTRUCTURE ((\"TEXT\" (\"A\" \"b\"))(\"X\" NIL)) UID 5)", `BODYSTRUCTURE=(("TEXT" ("A" "b")) ("X" NIL))`},
		"sections":             {"* 1 FETCH (UID 5 BODY[HEADER.FIELDS (From To)]<0> {2}\r\nhi)", `BODY[HEADER.FIELDS (FROM TO)]="hi"`},
		"too long":             {fmt.Sprintf("* 1 FETCH (UID 5 X {%d}\r\n%s Y 1)", len(long), long), `X=CUT Y="1"`},
	} {
		t.Run(name, func(t *testing.T) {
			c := selected(t, 1, func(s *script) { s.ok("UID FETCH 5 (UID X)", tt.line); s.ok("NOOP") })
			var got []string
			err := c.FetchItems(context.Background(), imap.UIDSetNum(5), "X", func(uid imap.UID, values map[string]Value) error {
				for _, item := range []string{"ENVELOPE", "BODYSTRUCTURE", "BODY[HEADER.FIELDS (FROM TO)]", "X", "Y"} {
					if v, ok := values[item]; ok {
						got = append(got, item+"="+v.String())
					}
				}
				return nil
			})
			if err != nil || strings.Join(got, " ") != tt.want {
				t.Errorf("got %.200q, %v, want %q", got, err, tt.want)
			}
			if err := c.Noop(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestFetchItemsBrokenResponseCostsItself(t *testing.T) {
	c := selected(t, 2, func(s *script) {
		s.ok("UID FETCH", "* 1 FETCH (UID 1 ENVELOPE (\"a\"", "* 2 FETCH (UID 2 ENVELOPE (\"b\"))",
			"* 3 FETCH (UID 3 ENVELOPE "+strings.Repeat("(", maxDepth+2)+")")
	})
	got := ""
	err := c.FetchItems(context.Background(), imap.UIDSetNum(1, 2, 3), "ENVELOPE", func(uid imap.UID, v map[string]Value) error {
		got += fmt.Sprint(uid, v["ENVELOPE"])
		return nil
	})
	if want := `2("b")`; err != nil || strings.ReplaceAll(got, " ", "") != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestBodySums(t *testing.T) {
	c := selected(t, 3, func(s *script) {
		s.ok("UID FETCH 1:2,9 (UID BODY.PEEK[])", "* 1 FETCH (UID 1 BODY[] {5}\r\nhello)", "* 2 FETCH (UID 2 BODY[] NIL)",
			"* 3 FETCH (BODY[] \"hello\" UID 9)")
	})
	var got []string
	err := c.BodySums(context.Background(), []imap.UID{1, 2, 9}, func(int) int64 { return 5 }, sha256.New(),
		func(uid imap.UID, size int64, sum []byte) error {
			got = append(got, fmt.Sprintf("%d %d %s", uid, size, hex.EncodeToString(sum)[:8]))
			return nil
		})
	want := []string{"1 5 2cf24dba", "9 5 2cf24dba"}
	if err != nil || strings.Join(got, ";") != strings.Join(want, ";") {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}
