package config

import (
	_ "embed"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Example is a commented configuration that works as it is. Lines that begin
// with # and no space are settings to switch on.
//
//go:embed example.yaml
var Example string

// Show writes c as YAML, secrets hidden.
func Show(c *Config) (string, error) {
	out, err := yaml.Marshal(showNode(reflect.ValueOf(*c)))
	return string(out), err
}

func showNode(v reflect.Value) *yaml.Node {
	n := &yaml.Node{}
	switch {
	case v.Kind() == reflect.Struct:
		n.Kind = yaml.MappingNode
		for _, f := range fieldsOf(v.Type()) {
			if fv := v.Field(f.index); !fv.IsZero() || f.hasDef {
				n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: f.key}, showNode(fv))
			}
		}
	case v.Kind() == reflect.Pointer:
		return showNode(v.Elem())
	case v.Kind() == reflect.Slice:
		n.Kind = yaml.SequenceNode
		if v.Type().Elem().Kind() == reflect.String {
			n.Style = yaml.FlowStyle
		}
		for i := range v.Len() {
			n.Content = append(n.Content, showNode(v.Index(i)))
		}
	case v.Type() == durationType:
		_ = n.Encode(shortDuration(v.Interface().(time.Duration)))
	case v.Type() == sizeType:
		_ = n.Encode(v.Interface().(Size).String())
	default: // Encode of a scalar or a map of scalars cannot fail
		_ = n.Encode(v.Interface())
	}
	return n
}

// shortDuration is d without the zero parts that Duration.String ends with.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Reference is the reference page of all settings, made from the struct.
func Reference() string {
	var b strings.Builder
	b.WriteString(`# Configuration

This page is made from the program: ` + "`mailferry config reference`" + `.

` + "`mailferry serve`" + ` needs no configuration: every setting has a default, and the defaults are a whole mail system on
loopback. ` + "`mailferry init`" + ` writes a commented file to start from, ` + "`mailferry config check`" + ` reports every mistake of a
file at once, ` + "`mailferry config show`" + ` prints the settings in effect without secrets.

* Durations need a unit (` + "`30s`, `5m`, `24h`" + `), sizes too (` + "`64MiB`" + `).
* A secret can be written as ` + "`KEY`" + `, read from a file as ` + "`KEY_file`" + ` (relative to the configuration) or from the
  environment as ` + "`KEY_env`" + `.
* A setting outside lists can be given by the environment: ` + "`log.level` is `MAILFERRY_LOG_LEVEL`" + `; lists are separated by
  commas. The environment wins over the file.
* SIGHUP reads the file again: certificates, directories and the log level change at once, the rest at the next start. A
  file with mistakes changes nothing.

`)
	referenceOf(&b, reflect.TypeFor[Config](), "", 2)
	return b.String()
}

// referenceOf writes a table of the keys of t, then a section for each of its
// structs.
func referenceOf(b *strings.Builder, t reflect.Type, path string, level int) {
	fields := fieldsOf(t)
	b.WriteString("| key | type | default | meaning |\n| --- | --- | --- | --- |\n")
	for _, f := range fields {
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", f.key, typeName(f.typ), defaultText(f), strings.ReplaceAll(f.doc, "|", "\\|"))
	}
	b.WriteString("\n")
	for _, f := range fields {
		if inner, list := structOf(f.typ); inner != nil {
			key := join(path, f.key)
			if list {
				key += "[]"
			}
			fmt.Fprintf(b, "%s `%s`\n\n%s\n\n", strings.Repeat("#", level), key, f.doc)
			referenceOf(b, inner, key, level+1)
		}
	}
}

func structOf(t reflect.Type) (inner reflect.Type, list bool) {
	for t.Kind() == reflect.Slice || t.Kind() == reflect.Pointer {
		list = list || t.Kind() == reflect.Slice
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil, false
	}
	return t, list
}

func typeName(t reflect.Type) string {
	switch {
	case t == durationType:
		return "duration"
	case t == sizeType:
		return "size"
	case t == secretType:
		return "secret"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "number"
	case reflect.Map:
		if t.Elem().Kind() == reflect.String {
			return "text by name"
		}
		return "number by name"
	case reflect.Slice:
		return "list"
	case reflect.Struct, reflect.Pointer:
		return "section"
	}
	return "text"
}

func defaultText(f field) string {
	switch {
	case f.required:
		return "required"
	case f.def == "":
		return ""
	case f.typ.Kind() == reflect.Slice:
		return "`[" + strings.ReplaceAll(f.def, ",", ", ") + "]`"
	}
	if _, err := strconv.Atoi(f.def); err == nil {
		return f.def
	}
	return "`" + f.def + "`"
}
