package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one mistake.
type Problem struct {
	File string
	Line int    // 0: not in the file
	Key  string // as in directories[0].type
	Text string
}

func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d", p.Line)
		}
		b.WriteString(": ")
	}
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Text)
	return b.String()
}

// Problems are all mistakes of a configuration, in the order of lines.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// report collects problems of one file.
type report struct {
	file  string
	lines map[string]int // key path to line
	found Problems
}

// add records a mistake at key; its line is that of the key or of the nearest
// one above it that stands in the file.
func (r *report) add(key, format string, args ...any) {
	r.addLine(r.line(key), key, format, args...)
}

func (r *report) addLine(line int, key, format string, args ...any) {
	r.found = append(r.found, Problem{File: r.file, Line: line, Key: key, Text: fmt.Sprintf(format, args...)})
}

func (r *report) line(key string) int {
	for key != "" {
		if n, ok := r.lines[key]; ok {
			return n
		}
		i := strings.LastIndexAny(key, ".[")
		if i < 0 {
			return 0
		}
		key = key[:i]
	}
	return 0
}

// has reports whether the file has the key.
func (r *report) has(key string) bool {
	_, ok := r.lines[key]
	return ok
}

func (r *report) err() error {
	if len(r.found) == 0 {
		return nil
	}
	slices.SortStableFunc(r.found, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	return r.found
}
