package perdition

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"mailferry/backend/directory"
	"mailferry/internal/config"
)

// directories translates how the instance finds a user's store. All instances
// of one configuration share the directories of the first.
func (im *importer) directories(p *instance) {
	var about []string
	for _, o := range []string{"map_library", "map_library_opt", "query_key", "explicit_domain", "domain_delimiter", "username_from_database", "outgoing_server"} {
		about = append(about, fmt.Sprint(p.has(o), p.last[o]))
	}
	looked := fmt.Sprint(about, p.strip, p.add, p.lower)
	if im.looked != "" {
		if im.looked != looked {
			im.report.add(Item{Option: "map_library", Where: cmp.Or(p.name, p.protocol), Effect: lost, Why: "this instance finds users in another way than the first one; a configuration has one way for all protocols"})
		}
		return
	}
	im.looked = looked
	im.domains(p)
	im.conf.Directories = im.keyed(p, im.userMap(p))
	if p.last["outgoing_server"] != "" {
		im.conf.Directories = append(im.conf.Directories, im.everybody(p))
	}
	if len(im.conf.Directories) == 0 {
		im.report.add(Item{Option: "outgoing_server", Where: cmp.Or(p.name, p.protocol), Effect: lost, To: "directories", Why: "there is neither a map nor a default server, so that nobody can log in"})
		im.conf.Directories = []confDirectory{{Name: "nobody", Type: "regex", Rules: []confRule{{Match: ".^"}}, Passwords: "pass"}}
	}
	for i := range im.conf.Directories { // names must differ
		if n := i + 1; len(im.conf.Directories) > 1 && im.conf.Directories[i].Name == "" {
			im.conf.Directories[i].Name = fmt.Sprintf("map%d", n)
		}
	}
	if len(im.conf.Directories) == 1 && im.conf.Directories[0].Name == "" {
		im.conf.Directories[0].Name = "map"
	}
}

func (im *importer) domains(p *instance) {
	if p.add == 0 {
		if p.has("explicit_domain") {
			im.say(p, "explicit_domain", dropped, "without add_domain it has no effect")
		}
		return
	}
	if p.last["explicit_domain"] == "" {
		im.say(p, "add_domain", lost, "the domain of the address that a client reached is not looked up; name it with explicit_domain")
		return
	}
	im.say(p, "add_domain", kept, "")
	im.say(p, "explicit_domain", kept, "")
}

// keyed asks the directories of a map for each key in turn: the next one only
// when none knew the one before.
func (im *importer) keyed(p *instance, dirs []confDirectory) []confDirectory {
	formats := strings.Split(p.last["query_key"], ",")
	var list []confDirectory
	whole := true
	for _, f := range formats {
		key, ok := queryKey(f)
		if !ok {
			im.say(p, "query_key", lost, f+": keys made of addresses and ports have no equal")
			whole = false
			continue
		}
		for _, d := range dirs {
			n := confNames{Delimiter: p.last["domain_delimiter"], Lookup: p.form(stageLookup), Key: key, From: config.NamesGiven, Login: p.form(stageLogin)}
			if p.has("username_from_database") && !d.nameless {
				n.From = config.NamesDirectory
			}
			d.Names = &n
			list = append(list, d)
		}
	}
	if p.has("query_key") && whole {
		im.say(p, "query_key", kept, "")
	}
	return list
}

// userMap translates the map.
func (im *importer) userMap(p *instance) []confDirectory {
	library, opt := "gdbm", p.last["map_library_opt"]
	if p.has("map_library") {
		library = p.last["map_library"]
	}
	kind := strings.TrimPrefix(strings.SplitN(filepath.Base(library), ".so", 2)[0], "libperditiondb_")
	switch {
	case library == "":
		im.say(p, "map_library", kept, "")
		return nil
	case kind == "ldap":
		return im.ldap(p, opt)
	case kind == "posix_regex":
		return im.regex(p, cmp.Or(opt, "/etc/perdition/popmap.re"))
	case kind == "gdbm" || kind == "bdb" || kind == "cdb":
		return im.popmap(p, kind, opt)
	}
	why := map[string]string{
		"mysql": "export the table into a popmap: SELECT CONCAT(user, ':', servername, ...)", "postgresql": "export the table into a popmap: COPY (SELECT user || ':' || servername ...)",
		"odbc": "export the table into a popmap", "nis": "export the map into a popmap: ypcat -k MAP",
	}[kind]
	im.say(p, "map_library", lost, cmp.Or(why, "no directory of ours asks this library")+"; a directory of type file with format popmap reads it")
	return nil
}

// popmap takes the text that a database is made of.
func (im *importer) popmap(p *instance, kind, opt string) []confDirectory {
	opt = cmp.Or(opt, "/etc/perdition/popmap."+kind+".db")
	text := opt
	for _, end := range []string{"." + kind + ".db", ".db", "." + kind} {
		if t, ok := strings.CutSuffix(opt, end); ok {
			text = t
			break
		}
	}
	if text == opt || !readable(text) {
		im.say(p, "map_library_opt", lost, fmt.Sprintf("the text that %s is made of is not beside it; export it (makegdbm -u, makebdb -u, cdbdump) and name it in directories[].path", opt))
		if text == opt {
			text = opt + ".txt"
		}
	} else {
		im.say(p, "map_library_opt", kept, text+" is read itself, at every change; makegdbm is not needed any more")
	}
	im.say(p, "map_library", kept, "")
	if data, err := os.ReadFile(text); err == nil {
		lines, _ := directory.ParsePopmap(data, p.delimiter())
		for _, l := range lines {
			im.place(l)
		}
	}
	return []confDirectory{{Type: "file", Path: absolute(text), Format: "popmap", Passwords: "pass"}}
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// ldap translates an LDAP URL.
func (im *importer) ldap(p *instance, opt string) []confDirectory {
	m, err := parseLDAP(opt)
	if err != nil {
		im.say(p, "map_library_opt", lost, err.Error())
		return nil
	}
	for _, w := range m.check(p.has("username_from_database")) {
		im.say(p, "map_library_opt", lost, w)
	}
	if m.scope != "sub" && m.scope != "subtree" {
		im.say(p, "map_library_opt", changed, "the whole subtree is searched, not scope "+m.scope+"; two entries that fit are refused")
	}
	im.say(p, "map_library_opt", kept, "LDAPv3, keys escaped, referrals not followed, an error is no default server")
	im.say(p, "map_library", kept, "")
	a := map[string]string{"user": m.user}
	if m.host != "" {
		a["store"] = m.host
	}
	switch _, has := reflect.TypeFor[config.Attributes]().FieldByName("Port"); {
	case m.port != "" && has:
		a["port"] = m.port
	case m.port != "":
		im.say(p, "map_library_opt", lost, "ports of single users ("+m.port+") are not read")
	}
	d := confDirectory{Type: "ldap", Servers: m.servers, BindDN: m.bindDN, BindPassword: m.password, Base: m.base, Filter: m.filter, Attributes: a, Passwords: "pass"}
	if p.last["outgoing_server"] != "" { // for entries without a host
		d.Store = defaultName
	}
	return []confDirectory{d}
}

// check lists what cannot be said in our words.
func (m *ldapMap) check(named bool) []string {
	out := m.problems
	if strings.Contains(m.base, "{user}") {
		out = append(out, "the key stands in the filter only: search from above, and compare in the filter")
	}
	if !strings.Contains(m.filter, "{user}") {
		out = append(out, "the filter does not compare the key")
	}
	if m.base == "" {
		out = append(out, "the search needs a base")
	}
	if m.host == "" {
		out = append(out, "one attribute with user, host and port in it is not taken apart; use one for each")
	}
	return out
}

// regex translates a map of regular expressions.
func (im *importer) regex(p *instance, path string) []confDirectory {
	data, err := os.ReadFile(path)
	if err != nil {
		im.say(p, "map_library_opt", lost, err.Error())
		return nil
	}
	rules, errs := parseRegexMap(string(data), p.delimiter())
	for _, err := range errs {
		im.say(p, "map_library_opt", lost, path+": "+err.Error())
	}
	for _, r := range rules {
		im.place(r.line)
	}
	im.say(p, "map_library", kept, "")
	im.say(p, "map_library_opt", kept, "the rules stand in the configuration now")
	return regexDirectories(rules, p.has("username_from_database"))
}
