package perdition

import (
	"bufio"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The stages at which Perdition changes names.
const (
	stageLookup = 1 << iota
	stageLocal
	stageLogin
	stageAll = stageLookup | stageLocal | stageLogin
)

// instance is one process of Perdition: the options of its file and of its
// command line, where they come from, and what they come to.
type instance struct {
	name     string // of the file, for the report
	protocol string // imap4, imap4s, pop3, pop3s, managesieve; empty: not said
	given    []given
	last     map[string]string // by long name
	strip    int
	add      int
	depth    int
	lower    int
}

func (p *instance) has(long string) bool { _, ok := p.last[long]; return ok }

// fileRules are the options for which a file wins over the command line, where
// for all others it is the other way round: a slip in 2.2 that set-ups live by.
var fileRules = []string{"bind_address", "outgoing_server", "query_key"}

// bindMask are the options that a file cannot give any more when the command
// line gives bind_address, by the same slip.
var bindMask = []string{"add_domain", "authenticate_in", "connection_limit"}

// newInstance merges a file with the command line.
func newInstance(name string, file, line []given, r *Report) *instance {
	p := &instance{name: name, last: map[string]string{}, depth: 1}
	onLine := map[string]bool{}
	for _, g := range line {
		onLine[g.opt.long] = true
		p.take(g, r)
	}
	masked := bindMask
	if !onLine["bind_address"] {
		masked = nil
	}
	for _, g := range file {
		if slices.Contains(masked, g.opt.long) && !onLine[g.opt.long] {
			r.add(item(g, dropped, "", "bind_address on the command line keeps 2.2 from reading it in the file"))
			continue
		}
		if onLine[g.opt.long] && !slices.Contains(fileRules, g.opt.long) {
			r.add(item(g, dropped, "", "the command line says otherwise"))
			continue
		}
		p.take(g, r)
	}
	p.protocol = strings.ToLower(p.last["protocol"])
	if p.protocol == "" {
		p.protocol = protocolOf(name)
	}
	return p
}

func (p *instance) take(g given, r *Report) {
	p.given = append(p.given, g)
	long := g.opt.long
	if long == "server_ok_line" {
		long = "server_resp_line"
	}
	p.last[long] = g.value
	switch long {
	case "strip_domain":
		p.stages(&p.strip, g, r)
	case "add_domain":
		p.stages(&p.add, g, r)
	case "lower_case":
		p.stages(&p.lower, g, r)
	}
}

// stages adds the states of a list, as Perdition does: they accumulate.
func (p *instance) stages(mask *int, g given, r *Report) {
	for state := range strings.SplitSeq(g.value, ",") {
		switch strings.ToLower(state) {
		case "all":
			*mask |= stageAll
		case "servername_lookup", "server_lookup":
			*mask |= stageLookup
		case "local_authentication", "local_auth":
			*mask |= stageLocal
		case "remote_login":
			*mask |= stageLogin
		default:
			if n, err := strconv.Atoi(state); err == nil && mask == &p.add {
				p.depth = n
				continue
			}
			r.add(item(g, lost, "", "there is no state "+strconv.Quote(state)))
		}
	}
}

// protocols in the order in which Debian's init script starts them.
var protocols = []string{"imap4", "imap4s", "pop3", "pop3s", "managesieve"}

// protocolOf is what a file's name says of the protocol: perdition.imap4.conf.
func protocolOf(file string) string {
	for _, word := range strings.Split(strings.ToLower(filepath.Base(file)), ".") {
		if word == "imaps" {
			return "imap4s"
		}
		if slices.Contains(protocols, word) {
			return word
		}
	}
	return ""
}

var assignment = regexp.MustCompile(`^([A-Z0-9_]+)=(.*)$`)

// defaultsFile reads the file that Debian's init script sources: which
// protocols run, with which options. ok is false for any other file.
func defaultsFile(text string) (flags map[string][]string, ok bool) {
	values := map[string]string{}
	sc := bufio.NewScanner(strings.NewReader(text))
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		m := assignment.FindStringSubmatch(line)
		if m == nil {
			return nil, false
		}
		values[m[1]] = m[2]
	}
	if _, has := values["RUN_PERDITION"]; !has {
		return nil, false
	}
	flags = map[string][]string{}
	for _, p := range protocols {
		on := strings.Trim(values[strings.ToUpper(p)], `"'`)
		if on == "yes" || on == "on" {
			flags[p] = append(words(values["FLAGS"]), words(values[strings.ToUpper(p)+"_FLAGS"])...)
		}
	}
	return flags, true
}

// words splits a quoted list of options as a shell would.
func words(s string) []string {
	s = strings.Trim(s, `"'`)
	var out []string
	for _, t := range scan(strings.ReplaceAll(s, "#", `\#`)+"\n", true) {
		if !t.end {
			out = append(out, t.text)
		}
	}
	return out
}

// parseFile reads the text of a configuration file.
func parseFile(text, path string, r *Report) []given {
	list, left, err := parseArgs(dashed(text), path)
	if err != nil {
		r.add(Item{Option: path, Effect: lost, Why: err.Error() + "; Perdition does not read on, and neither does the import"})
	}
	for _, w := range left {
		r.add(Item{Option: w, Where: path, Effect: dropped, Why: "no option: keys begin at the margin"})
	}
	if unfinished(text) {
		r.add(Item{Option: path, Effect: dropped, Why: "the last line has no end: Perdition does not read its value, and neither does the import"})
	}
	return list
}
