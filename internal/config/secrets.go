package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// readSecret puts the secret that v names in v's place.
func (r *report) readSecret(k, v *yaml.Node, from, path string) {
	secret, err := secretFrom(from, r, v.Value)
	switch {
	case err != nil:
		r.addLine(k.Line, path, "%s", err)
	case secret == "":
		r.addLine(k.Line, path, "is empty")
	}
	v.Value = secret
}

func secretFrom(source string, r *report, name string) (string, error) {
	if source == "env" {
		value, ok := os.LookupEnv(name)
		if !ok {
			return "", fmt.Errorf("the environment has no %s", name)
		}
		return value, nil
	}
	text, err := os.ReadFile(r.beside(name))
	// Editors end a file with a newline that is no part of the secret.
	return strings.TrimRight(string(text), "\r\n"), err
}

// beside makes a path relative to the configuration file.
func (r *report) beside(path string) string {
	if filepath.IsAbs(path) || r.file == "" {
		return path
	}
	return filepath.Join(filepath.Dir(r.file), path)
}
