package config

import (
	"bytes"
	"os"
	"reflect"
	"strings"

	"github.com/spf13/viper"
)

// envPrefix starts the names of environment variables: log.level is
// MAILFERRY_LOG_LEVEL. Keys inside lists have none.
const envPrefix = "MAILFERRY_"

// keyDelimiter is none that occurs in a key: viper's own, a dot, would tear
// domain names apart.
const keyDelimiter = "::"

// Options say where a configuration comes from.
type Options struct {
	File  string // empty: defaults and the environment
	Data  string // empty: what the file says
	Ports int    // first port of the default listeners; 0: the usual ones
	// LookupEnv reads the environment; nil: os.LookupEnv.
	LookupEnv func(string) (string, bool)
}

// Load reads, completes and validates a configuration. Mistakes come as
// Problems, all of them; other errors are those of reading the file.
func Load(o Options) (*Config, error) {
	if o.LookupEnv == nil {
		o.LookupEnv = os.LookupEnv
	}
	var text []byte
	if o.File != "" {
		var err error
		if text, err = os.ReadFile(o.File); err != nil {
			return nil, err
		}
	}
	return parse(text, o)
}

func parse(text []byte, o Options) (*Config, error) {
	r := &report{file: o.File, lines: map[string]int{}}
	clean := checkNodes(text, r)
	if len(r.found) > 0 { // relations of values that cannot be read mean nothing
		return nil, r.err()
	}
	c := &Config{}
	v := viper.NewWithOptions(viper.KeyDelimiter(keyDelimiter))
	v.SetConfigType("yaml")
	if err := v.ReadConfig(bytes.NewReader(clean)); err != nil {
		return nil, err
	}
	bindEnvironment(v, reflect.TypeFor[Config](), "", o, r)
	if err := r.err(); err != nil {
		return nil, err
	}
	if err := v.UnmarshalExact(c, viper.DecodeHook(scalarHook())); err != nil {
		return nil, Problems{{File: o.File, Text: err.Error()}}
	}
	if o.Data != "" {
		c.Data = o.Data
		r.lines["data"] = 0
	}
	complete(c, o.Ports, r)
	validate(c, r)
	if err := r.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// bindEnvironment reads the variables of keys outside lists.
func bindEnvironment(v *viper.Viper, t reflect.Type, path string, o Options, r *report) {
	for _, f := range fieldsOf(t) {
		key := join(path, f.key)
		switch {
		case f.typ.Kind() == reflect.Struct:
			bindEnvironment(v, f.typ, key, o, r)
			continue
		case f.typ.Kind() == reflect.Slice && f.typ.Elem().Kind() != reflect.String:
			continue
		}
		name := envPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
		value, ok := o.LookupEnv(name)
		if !ok {
			continue
		}
		if f.typ.Kind() != reflect.Slice {
			if _, err := parseScalar(f.typ, value); err != nil {
				r.add("", "%s in the environment: %s", name, err)
				continue
			}
		}
		v.Set(strings.ReplaceAll(key, ".", keyDelimiter), value)
		r.lines[key] = 0
	}
}
