package config

import (
	"regexp"
	"slices"
	"strings"
)

// Formats of directories of type file; empty: by the file's name.
const FormatPopmap = "popmap"

// NamesGiven and NamesDirectory say whose name a user logs in with.
const (
	NamesGiven     = "client"
	NamesDirectory = "directory"
)

// Names says by which names a directory is asked.
type Names struct {
	Delimiter string   `mapstructure:"delimiter" doc:"What stands between user and domain; the last one counts." default:"@"`
	Lookup    NameForm `mapstructure:"lookup" doc:"The form of names that are looked up."`
	Key       string   `mapstructure:"key" doc:"What the directory is asked for: {user} is the name in that form, {local} and {domain} are its parts, {delimiter} is what stands between." default:"{user}"`
	From      string   `mapstructure:"from" doc:"Whose name the user logs in with to the store: directory (its name for the user) or client (the name that the client gave)." default:"directory"`
	Login     NameForm `mapstructure:"login" doc:"The form of the name to log in with."`
}

// NameForm is what becomes of a name, in this order.
type NameForm struct {
	StripDomain bool   `mapstructure:"strip_domain" doc:"Leave the domain out." default:"false"`
	AddDomain   string `mapstructure:"add_domain" doc:"Domain of names without one."`
	LowerCase   bool   `mapstructure:"lower_case" doc:"Make letters small." default:"false"`
}

var placeholder = regexp.MustCompile(`\{[^}]*\}`)

// checkNameRules reports mistakes in how a directory is asked.
func checkNameRules(d *Directory, key string, r *report) {
	if d.Format != "" {
		oneOf(r, key+".format", d.Format, []string{FormatPopmap})
	}
	if d.Format != "" && (d.Type != DirectoryFile || d.Writable) {
		r.add(key+".format", "is for directories of type file that are not writable")
	}
	if (d.Type == DirectoryRegex) != (len(d.Rules) > 0) {
		r.add(key+".rules", "are for directories of type regex, which need one or more")
	}
	if d.Type == DirectoryRegex && d.Passwords == PasswordsBind {
		r.add(key+".passwords", "rules know no passwords: the store checks them")
	}
	n := d.Names
	if n == nil {
		return
	}
	oneOf(r, key+".names.from", n.From, []string{NamesDirectory, NamesGiven})
	if n.Delimiter == "" {
		r.add(key+".names.delimiter", "must not be empty")
	}
	known := []string{"{user}", "{local}", "{domain}", "{delimiter}"}
	found := placeholder.FindAllString(n.Key, -1)
	for _, p := range found {
		if !slices.Contains(known, p) {
			r.add(key+".names.key", "%s is none of %s", p, strings.Join(known, ", "))
		}
	}
	if d.Type == DirectoryLocal {
		r.add(key+".names", "directories of type %s have their own names", d.Type)
	}
}

// Serves reports whether this version serves a protocol of the section listen.
func Serves(protocol string) bool { return !slices.Contains(notServed, protocol) }
