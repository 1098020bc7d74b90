package perdition

import (
	"cmp"
	"fmt"
	"os"
	"strconv"
	"strings"

	"mailferry/backend"
	"mailferry/backend/directory"
	"mailferry/internal/config"
)

// Result is a translated set-up.
type Result struct {
	YAML   string
	Report Report
}

// importer collects the translation of all instances.
type importer struct {
	conf   conf
	report Report
	places []directory.PopmapLine
	looked string // the options of the lookup that the directories come from
}

// Import reads configuration files, or the file that Debian's init script
// sources beside them, and options of the command line that all instances
// share. Errors are those of reading files and (KindInvalid) of
// options that there are not; everything else is in the report.
func Import(files, args []string) (*Result, error) {
	im := &importer{conf: conf{Roles: []string{"proxy"}, Listen: map[string][]string{}, Log: map[string]string{}, Limits: map[string]any{}}}
	instances, err := im.instances(files, args)
	if err != nil {
		return nil, err
	}
	for _, p := range instances {
		im.instance(p)
	}
	im.finish()
	text, err := im.conf.text()
	return &Result{YAML: text, Report: im.report}, err
}

// instances are the processes that the files and options describe.
func (im *importer) instances(files, args []string) ([]*instance, error) {
	r := &im.report
	flags := map[string][]string{}
	var confs []string
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		if found, ok := defaultsFile(string(data)); ok {
			flags = found
		} else {
			confs = append(confs, f)
		}
	}
	line, err := im.parseLine(args, "command line")
	if err != nil {
		return nil, err
	}
	if len(confs) == 0 {
		confs = []string{""}
	}
	var list []*instance
	for _, f := range confs {
		var file []given
		if f != "" {
			data, err := os.ReadFile(f)
			if err != nil {
				return nil, err
			}
			file = parseFile(string(data), f, r)
		}
		more, err := im.spread(f, file, line, flags)
		if err != nil {
			return nil, err
		}
		list = append(list, more...)
	}
	return list, nil
}

// spread makes the instances of one file: one when the protocol is known, else
// one for each protocol that Debian's init script starts.
func (im *importer) spread(name string, file, line []given, flags map[string][]string) ([]*instance, error) {
	one := newInstance(name, file, line, &im.report)
	if one.protocol != "" {
		return []*instance{one}, nil
	}
	if len(flags) == 0 {
		im.report.add(Item{Option: "protocol", Where: name, Effect: changed, To: "listen", Why: "not said: taken to be started once for each protocol, as Debian's init script does; " +
			"name the only one with -- --protocol IMAP4, or import /etc/default/perdition beside the file"})
		for _, p := range protocols {
			flags[p] = nil
		}
	}
	var list []*instance
	for _, p := range protocols {
		args, ok := flags[p]
		if !ok {
			continue
		}
		more, err := im.parseLine(args, "options of "+p)
		if err != nil {
			return nil, err
		}
		i := newInstance(name, file, append(more, line...), &im.report)
		i.protocol = cmp.Or(i.protocol, p)
		list = append(list, i)
	}
	return list, nil
}

// parseLine reads options of a command line, where a mistake ends Perdition.
func (im *importer) parseLine(args []string, where string) ([]given, error) {
	list, left, err := parseArgs(args, where)
	for _, w := range left {
		im.report.add(Item{Option: w, Where: where, Effect: dropped, Why: "no option"})
	}
	if err != nil {
		err = backend.Errorf(backend.KindInvalid, "", "%w", err)
	}
	return list, err
}

// instance translates one process.
func (im *importer) instance(p *instance) {
	for _, g := range p.given {
		im.standard(p, g)
	}
	im.limits(p)
	im.listeners(p)
	im.stores(p)
	im.directories(p)
}

// standard reports an option as its table says. Those whose value decides are
// reported where they are translated.
func (im *importer) standard(p *instance, g given) {
	switch g.opt.long {
	case "map_library", "map_library_opt", "query_key", "add_domain", "explicit_domain", "ssl_mode", "authenticate_timeout", "timeout",
		"ssl_cert_file", "ssl_key_file", "ssl_ca_file", "outgoing_server", "listen_port", "bind_address", "outgoing_port":
		return
	case "protocol":
		if protocolOf("x."+g.value) == "" {
			im.report.add(item(g, lost, "", "there is no such protocol"))
			return
		}
	case "connection_limit":
		if g.value == "0" {
			im.report.add(item(g, changed, g.opt.to, "there is always a limit"))
			return
		}
	}
	why := g.opt.reason
	im.report.add(item(g, g.opt.effect, g.opt.to, why))
}

// say reports an option that was given, with what became of it.
func (im *importer) say(p *instance, long string, e effect, why string) {
	for _, g := range p.given {
		if g.opt.long == long && (g.value == p.last[long]) {
			im.report.add(item(g, e, g.opt.to, why))
			return
		}
	}
	if e != kept {
		im.report.add(Item{Option: long, Where: cmp.Or(p.name, p.protocol), Effect: e, To: findOption(long).to, Why: why})
	}
}

func (im *importer) limits(p *instance) {
	if v := p.last["authenticate_timeout"]; v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n == 0 || n > 60 {
			im.say(p, "authenticate_timeout", changed, "60s at most: a connection without a login costs memory")
			n = 60
		} else {
			im.say(p, "authenticate_timeout", kept, "")
		}
		im.conf.Limits["login_timeout"] = fmt.Sprintf("%ds", n)
	}
	if v := p.last["timeout"]; v != "" {
		n, err := strconv.Atoi(v)
		switch {
		case err != nil || n != 0 && n < 1800:
			im.say(p, "timeout", changed, "30m at least, as RFC 9051 asks")
			n = 1800
		case n == 0:
			im.say(p, "timeout", changed, "there is always a limit: a day")
			n = 24 * 3600
		default:
			im.say(p, "timeout", kept, "")
		}
		im.conf.Limits["idle_timeout"] = fmt.Sprintf("%ds", n)
	}
	if n, _ := strconv.Atoi(p.last["connection_limit"]); n > 0 {
		have, _ := im.conf.Limits["connections"].(int)
		im.conf.Limits["connections"] = have + n
	}
	switch {
	case p.has("debug"):
		im.conf.Log["level"] = "debug"
	case p.has("quiet") && im.conf.Log["level"] == "":
		im.conf.Log["level"] = "warn"
	}
}

// finish adds what a configuration needs when nothing asked for it.
func (im *importer) finish() {
	c := &im.conf
	im.placeStores()
	for _, name := range []string{"imap", "imaps", "pop3", "pop3s", "managesieve", "lmtp", "submission", "submissions"} {
		if c.Listen[name] == nil {
			c.Listen[name] = []string{}
		}
	}
	c.TLS.Cleartext = cmp.Or(c.TLS.Cleartext, string(config.CleartextNever))
	if len(c.Log) == 0 {
		c.Log = nil
	}
	if len(c.Limits) == 0 {
		c.Limits = nil
	}
}

// form is what becomes of names at a stage; nil: nothing.
func (p *instance) form(stage int) *confForm {
	f := confForm{StripDomain: p.strip&stage != 0, LowerCase: p.lower&stage != 0}
	if stage == stageLookup && p.has("client_server_specification") {
		f.StripDomain = false
	}
	if p.add&stage != 0 {
		f.AddDomain = p.last["explicit_domain"]
	}
	if f == (confForm{}) {
		return nil
	}
	return &f
}

// key writes a format of query_key in our words. ok is false for what only a
// connection knows.
func queryKey(format string) (key string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '\\' {
			b.WriteByte(format[i])
			continue
		}
		i++
		if i == len(format) {
			return b.String(), true
		}
		word, known := map[byte]string{'U': "{user}", 'u': "{local}", 'd': "{domain}", 'D': "{delimiter}", '\\': `\`}[format[i]]
		if !known {
			return "", false
		}
		b.WriteString(word)
	}
	return b.String(), true
}
