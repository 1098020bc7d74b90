package directory

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"mailferry/backend"
)

// RegexRule routes the names that match a pattern.
type RegexRule struct {
	// Match is a regular expression of Go (RE2) for the whole name.
	Match string
	// User is the canonical name and Store the store's name or address, with
	// ${1} for groups and $$ for a dollar. Empty: the name as it is, and the
	// default store.
	User  string
	Store string
}

// RegexOptions configure a directory of rules.
type RegexOptions struct {
	Name         string
	Rules        []RegexRule // the first that matches decides
	DefaultStore string
}

// Regex is the driver for rules. It knows every name that a rule matches, so
// there is no user of whom it can say that they do not exist, and the store
// checks every password.
type Regex struct {
	name  string
	rules []regexRule
}

type regexRule struct {
	re          *regexp.Regexp
	user, store string
}

// NewRegex compiles the rules. KindInvalid: one of them is not usable.
func NewRegex(o RegexOptions) (*Regex, error) {
	d := &Regex{name: o.Name}
	for i, r := range o.Rules {
		re, err := regexp.Compile(`^(?:` + r.Match + `)$`)
		if err != nil {
			return nil, backend.Errorf(backend.KindInvalid, "", "directory %s: rule %d: %w", o.Name, i+1, err)
		}
		rule := regexRule{re, r.User, r.Store}
		if rule.user == "" {
			rule.user = "${0}"
		}
		if rule.store == "" {
			rule.store = strings.ReplaceAll(o.DefaultStore, "$", "$$")
		}
		d.rules = append(d.rules, rule)
	}
	return d, nil
}

// Name is the configured name.
func (d *Regex) Name() string { return d.name }

// Lookup implements backend.Directory.
func (d *Regex) Lookup(ctx context.Context, name string) (backend.Entry, error) {
	if !validName(name) {
		return backend.Entry{}, notFound(d.name, name)
	}
	for i := range d.rules {
		r := &d.rules[i]
		groups := r.re.FindStringSubmatchIndex(name)
		if groups == nil {
			trace(ctx, fmt.Sprintf("directory %s, rule %d", d.name, i+1), "%s does not match %q", r.re, name)
			continue
		}
		trace(ctx, fmt.Sprintf("directory %s, rule %d", d.name, i+1), "%s matches %q and decides", r.re, name)
		e := backend.Entry{Directory: d.name, ID: fmt.Sprintf("rule %d", i+1),
			User:  string(r.re.ExpandString(nil, r.user, name, groups)),
			Store: string(r.re.ExpandString(nil, r.store, name, groups))}
		if !validName(e.User) || e.Store != "" && !validName(e.Store) {
			return backend.Entry{}, backend.Errorf(backend.KindConflict, "", "directory %s: rule %d makes user %q on store %q of %q, which is not usable", d.name, i+1, e.User, e.Store, name)
		}
		return e, nil
	}
	return backend.Entry{}, notFound(d.name, name)
}

// Authenticate implements backend.Directory: rules know no passwords.
func (d *Regex) Authenticate(_ context.Context, e backend.Entry, _ backend.Secret) error {
	return wrongPassword(d.name, e.User)
}
