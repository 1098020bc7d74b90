package perdition

import (
	"strings"

	"go.yaml.in/yaml/v3"
)

// conf is the part of our configuration that an import writes.
type conf struct {
	Roles       []string            `yaml:"roles,flow"`
	Listen      map[string][]string `yaml:"listen"`
	TLS         confTLS             `yaml:"tls"`
	Log         map[string]string   `yaml:"log,omitempty"`
	Limits      map[string]any      `yaml:"limits,omitempty"`
	Directories []confDirectory     `yaml:"directories"`
	Stores      []confStore         `yaml:"stores"`
}

type confTLS struct {
	Certificates []map[string]string `yaml:"certificates,omitempty"`
	Cleartext    string              `yaml:"cleartext_login"`
}

type confDirectory struct {
	Name         string            `yaml:"name"`
	Type         string            `yaml:"type"`
	Store        string            `yaml:"store,omitempty"`
	Servers      []string          `yaml:"servers,omitempty,flow"`
	BindDN       string            `yaml:"bind_dn,omitempty"`
	BindPassword string            `yaml:"bind_password,omitempty"`
	Base         string            `yaml:"base,omitempty"`
	Filter       string            `yaml:"filter,omitempty"`
	Attributes   map[string]string `yaml:"attributes,omitempty,flow"`
	Path         string            `yaml:"path,omitempty"`
	Format       string            `yaml:"format,omitempty"`
	Rules        []confRule        `yaml:"rules,omitempty"`
	Names        *confNames        `yaml:"names,omitempty"`
	Passwords    string            `yaml:"passwords,omitempty"`

	nameless bool // the map has no name of its own for these users
}

type confRule struct {
	Match string `yaml:"match"`
	User  string `yaml:"user,omitempty"`
	Store string `yaml:"store,omitempty"`
}

type confNames struct {
	Delimiter string    `yaml:"delimiter,omitempty"`
	Lookup    *confForm `yaml:"lookup,omitempty,flow"`
	Key       string    `yaml:"key,omitempty"`
	From      string    `yaml:"from"`
	Login     *confForm `yaml:"login,omitempty,flow"`
}

type confForm struct {
	StripDomain bool   `yaml:"strip_domain,omitempty"`
	AddDomain   string `yaml:"add_domain,omitempty"`
	LowerCase   bool   `yaml:"lower_case,omitempty"`
}

type confStore struct {
	Name    string         `yaml:"name"`
	Type    string         `yaml:"type"`
	Address string         `yaml:"address,omitempty"`
	Ports   map[string]int `yaml:"ports,omitempty,flow"`
	TLS     string         `yaml:"tls"`
	CA      string         `yaml:"ca,omitempty"`
}

const heading = `# Made from a set-up of Perdition. What became of each of its options stands in
# the report of "mailferry config import perdition"; docs/perdition.md has all.
`

// text is the configuration as it is written.
func (c *conf) text() (string, error) {
	var b strings.Builder
	b.WriteString(heading)
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	err := e.Encode(c)
	return b.String(), err
}
