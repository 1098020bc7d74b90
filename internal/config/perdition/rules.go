package perdition

import (
	"strings"

	"mailferry/backend/directory"
)

// regexDirectories makes directories of rules. Rules that name a user and rules
// that do not cannot stand in one when the name counts: without a name of the
// map the client's does.
func regexDirectories(rules []rule, named bool) []confDirectory {
	var list []confDirectory
	last := false
	for i, r := range rules {
		has := r.line.User != ""
		if i == 0 || named && has != last {
			list = append(list, confDirectory{Type: "regex", Passwords: "pass", nameless: !has})
		}
		last = has
		d := &list[len(list)-1]
		d.Rules = append(d.Rules, confRule{Match: r.pattern, User: r.line.User, Store: r.line.Store()})
	}
	return list
}

// everybody is the directory of those whom the map does not know.
func (im *importer) everybody(p *instance) confDirectory {
	return confDirectory{Name: "everybody", Type: "regex", Store: defaultName, Passwords: "pass",
		Rules: []confRule{{Match: ".*"}}, Names: &confNames{Delimiter: p.last["domain_delimiter"], From: "client", Login: p.form(stageLogin)}}
}

// place notes a host of a map, so that it becomes a store that users can be
// moved from. Hosts that hold parts of names cannot be listed.
func (im *importer) place(l directory.PopmapLine) {
	if strings.Contains(l.Host, "$") || strings.Contains(l.Port, "$") {
		if l.Port != "" {
			im.report.add(Item{Option: "map_library_opt", Value: l.Key, Effect: lost, To: "stores", Why: "stores whose names are made of the user's need one port for all: name each host and port in stores"})
		}
		return
	}
	if l.Port != "" { // else the host alone would mean this port, too
		im.place(directory.PopmapLine{Host: l.Host})
	}
	for _, have := range im.places {
		if have.Store() == l.Store() {
			return
		}
	}
	im.places = append(im.places, directory.PopmapLine{Host: l.Host, Port: l.Port})
}

// placeStores makes stores of the hosts of maps, in the way in which all are
// reached.
func (im *importer) placeStores() {
	if len(im.conf.Stores) == 0 {
		return
	}
	general := im.conf.Stores[0]
	for _, l := range im.places {
		s := general
		s.Name, s.Address = l.Store(), l.Host
		if s.Name == defaultName || s.Name == storeName {
			continue // a host that is called like that is reached as any other
		}
		if l.Port != "" {
			port, err := portOf(l.Port)
			if err != nil {
				im.report.add(Item{Option: "map_library_opt", Value: s.Name, Effect: lost, Why: "the name of the port is not known here"})
				continue
			}
			s.Ports = map[string]int{}
			for name := range general.Ports {
				s.Ports[name] = port
			}
		}
		im.conf.Stores = append(im.conf.Stores, s)
	}
}
