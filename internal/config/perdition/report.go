package perdition

import (
	"fmt"
	"io"
	"strings"
)

// Item is one line of the report: what became of an option.
type Item struct {
	Option string `json:"option"`          // long name, or a file
	Value  string `json:"value,omitempty"` // as it was given
	Where  string `json:"where,omitempty"` // file or command line
	Effect effect `json:"effect"`          // kept, changed, dropped or lost
	To     string `json:"to,omitempty"`    // our setting
	Why    string `json:"why,omitempty"`
}

// MarshalText writes the word of an effect.
func (e effect) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// Report says what became of everything that was given.
type Report struct {
	Items []Item `json:"items"`
	seen  map[Item]bool
}

// secrets are options whose values hold passwords.
var secretWords = []string{"x-bindpw=", "X-BINDPW="}

func item(g given, e effect, to, why string) Item {
	return Item{Option: g.opt.long, Value: hide(g.value), Where: g.where, Effect: e, To: to, Why: why}
}

// hide cuts passwords out of LDAP URLs.
func hide(value string) string {
	for _, w := range secretWords {
		if i := strings.Index(value, w); i >= 0 {
			return value[:i+len(w)] + "[secret]"
		}
	}
	return value
}

// add notes an item once.
func (r *Report) add(i Item) {
	if r.seen == nil {
		r.seen = map[Item]bool{}
	}
	if !r.seen[i] {
		r.seen[i] = true
		r.Items = append(r.Items, i)
	}
}

// Lost reports whether something could not be translated.
func (r *Report) Lost() bool {
	for _, i := range r.Items {
		if i.Effect == lost {
			return true
		}
	}
	return false
}

// Text writes the report for people, what is lost first.
func (r *Report) Text(w io.Writer) error {
	for _, e := range []effect{lost, changed, dropped, kept} {
		for _, i := range r.Items {
			if i.Effect != e {
				continue
			}
			if _, err := fmt.Fprintln(w, i.text()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (i Item) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-7s  %s", i.Effect, i.Option)
	if i.Value != "" {
		fmt.Fprintf(&b, " %s", i.Value)
	}
	if i.Where != "" {
		fmt.Fprintf(&b, " (%s)", i.Where)
	}
	if i.To != "" {
		fmt.Fprintf(&b, " -> %s", i.To)
	}
	if i.Why != "" {
		fmt.Fprintf(&b, ": %s", i.Why)
	}
	return b.String()
}
