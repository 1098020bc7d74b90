package mailtest

import (
	"reflect"
	"testing"
)

func TestParseFetch(t *testing.T) {
	for name, tc := range map[string]struct {
		in   string
		want fetchData
		bad  bool
	}{
		"flags":   {in: `(UID 7 FLAGS (\Seen $Work) MODSEQ (12))`, want: fetchData{uid: 7, hasFlags: true, flags: []string{`\Seen`, "$Work"}}},
		"none":    {in: `(FLAGS ())`, want: fetchData{hasFlags: true}},
		"literal": {in: "(UID 1 BODY[] {4}\r\na)\r\n)", want: fetchData{uid: 1, body: "a)\r\n", hasBody: true}},
		"header": {in: "(BODY[HEADER.FIELDS (MESSAGE-ID)] \"Message-ID: <a\\\"b>\" UID 3)",
			want: fetchData{uid: 3, header: `Message-ID: <a"b>`, hasHeader: true}},
		"nil":       {in: `(BODY[] NIL UID 2)`, want: fetchData{uid: 2}},
		"structure": {in: `(BODYSTRUCTURE (("a" "b" NIL)("c" "d" ("e" "f"))"mixed") UID 4)`, want: fetchData{uid: 4}},
		"odd":       {in: `(UID)`, bad: true},
		"uid 0":     {in: `(UID 0)`, bad: true},
		"open":      {in: `(UID 1`, bad: true},
		"short":     {in: "(BODY[] {9}\r\nabc)", bad: true},
		"two":       {in: `(UID 1) (UID 2)`, bad: true},
		"negative":  {in: "(BODY[] {-1}\r\n)", bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseFetch(tc.in)
			if (err != nil) != tc.bad || err == nil && !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

// FuzzReply: nothing that a server sends makes the driver fall over.
func FuzzReply(f *testing.F) {
	for _, s := range []string{"* 5 EXISTS", "c1 OK [UIDNEXT 4] done", "+ idling", "* 1 FETCH (UID 5 BODY[] {2}\r\nab)",
		"* VANISHED (EARLIER) 1:4294967295", "* SEARCH 1 2 (MODSEQ 4)", "* BYE"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c := &Checker{o: CheckerOptions{Keyword: "$k"}, current: newBox("INBOX", "$k", false)}
		c.report.Pauses = []Pause{{}}
		ses := &session{command: "NOOP", tag: "c1", tagged: make(chan reply, 1), plus: make(chan struct{}, 1), grew: make(chan struct{}, 1)}
		c.take(ses, s)
	})
}
