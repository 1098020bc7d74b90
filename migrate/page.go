package migrate

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"sync"
	"time"
)

//go:embed page.html
var pageText string

// page is read when it is first used: every command would wait for it.
var page = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("page").Funcs(template.FuncMap{
		"time":  func(t time.Time) string { return t.Format("2006-01-02 15:04:05 MST") },
		"ms":    func(d time.Duration) string { return d.Round(time.Millisecond).String() },
		"size":  groupDigits,
		"short": func(s string) string { return s[:min(len(s), 16)] },
		"grade": gradeText,
	}).Parse(pageText))
})

// gradeText says what a grade means.
func gradeText(grade string) string {
	switch grade {
	case "perfect":
		return "Perfect: everything that a mail client can see is the same."
	case "exceptions":
		return "Exceptions: all mail is there; what is listed below has another form."
	case "incomplete":
		return "Incomplete: what is listed below could not be carried over."
	}
	return grade
}

// groupDigits writes 1234567 as 1,234,567.
func groupDigits(n any) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// WritePage writes a certificate as a page for people: one HTML file that needs
// nothing else.
func WritePage(w io.Writer, c *Certificate) error { return page().Execute(w, c) }
