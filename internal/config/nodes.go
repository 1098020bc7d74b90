package config

import (
	"fmt"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// checkNodes walks the YAML text beside the type it is meant for: it notes the
// line of each key and reports unknown keys, wrong shapes and bad values. It
// returns the same document with secrets read in and with all values as
// strings, so that nothing depends on YAML's guesses (on, 0123, 1e3).
func checkNodes(text []byte, r *report) []byte {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		r.syntax(err)
		return nil
	}
	if len(doc.Content) == 0 { // an empty file: all defaults
		return nil
	}
	r.node(doc.Content[0], reflect.TypeFor[Config](), "")
	out, err := yaml.Marshal(&doc)
	if err != nil {
		r.addLine(0, "", "cannot be read: %s", err)
	}
	return out
}

// syntax reports what the YAML parser says; its texts carry the line.
func (r *report) syntax(err error) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	var line int
	if n, _ := fmt.Sscanf(text, "line %d:", &line); n == 1 {
		_, text, _ = strings.Cut(text, ": ")
	}
	r.addLine(line, "", "not YAML: %s", text)
}

func (r *report) node(n *yaml.Node, t reflect.Type, key string) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if _, ok := r.lines[key]; !ok && key != "" {
		r.lines[key] = n.Line
	}
	switch t.Kind() {
	case reflect.Struct:
		r.structNode(n, t, key)
	case reflect.Slice:
		r.listNode(n, t, key)
	case reflect.Map:
		r.mapNode(n, t, key)
	default:
		r.scalarNode(n, t, key)
	}
}

func (r *report) structNode(n *yaml.Node, t reflect.Type, key string) {
	if n.Kind != yaml.MappingNode {
		r.addLine(n.Line, key, "must be a list of keys with values")
		return
	}
	fields := fieldsOf(t)
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		path := join(key, k.Value)
		if seen[k.Value] {
			r.addLine(k.Line, path, "is given twice")
		}
		seen[k.Value] = true
		ft, ok := fields.lookup(k.Value)
		if !ok {
			r.addLine(k.Line, path, "%s", unknownKey(path, k.Value, fields))
			continue
		}
		r.lines[path] = k.Line
		r.node(v, ft, path)
		if secret, from, ok := fields.secretSource(k.Value); ok {
			r.readSecret(k, v, from, path)
			k.Value = secret
			if seen[secret] {
				r.addLine(k.Line, path, "%s is given in two ways", secret)
			}
			seen[secret] = true
		}
	}
}

func (r *report) listNode(n *yaml.Node, t reflect.Type, key string) {
	if n.Kind != yaml.SequenceNode {
		r.addLine(n.Line, key, "must be a list: [one, two]")
		return
	}
	for i, e := range n.Content {
		r.node(e, t.Elem(), fmt.Sprintf("%s[%d]", key, i))
	}
}

func (r *report) mapNode(n *yaml.Node, t reflect.Type, key string) {
	if n.Kind != yaml.MappingNode {
		r.addLine(n.Line, key, "must be a list of keys with values")
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		path := join(key, n.Content[i].Value)
		r.lines[path] = n.Content[i].Line
		r.node(n.Content[i+1], t.Elem(), path)
	}
}

func (r *report) scalarNode(n *yaml.Node, t reflect.Type, key string) {
	if n.Kind != yaml.ScalarNode {
		r.addLine(n.Line, key, "must be a single value")
		return
	}
	if n.Tag == "!!null" {
		r.addLine(n.Line, key, "has no value")
		n.Tag, n.Value = "!!str", ""
		return
	}
	if _, err := parseScalar(t, n.Value); err != nil {
		r.addLine(n.Line, key, "%s", err)
	}
	n.Tag, n.Style = "!!str", yaml.DoubleQuotedStyle
}

// removedKeys are keys that people look for and that this version cannot serve.
var removedKeys = map[string]string{
	"tls.acme": "certificates by ACME are not supported by this version: name files under tls.certificates",
}

func unknownKey(path, name string, fields fieldSet) string {
	if text, ok := removedKeys[path]; ok {
		return text
	}
	text := "unknown key"
	if near := nearest(name, fields.names()); near != "" {
		text += fmt.Sprintf("; did you mean %q?", near)
	}
	return text
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}
