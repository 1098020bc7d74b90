package perdition

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"mailferry/backend/directory"
	"mailferry/internal/config"
)

// family is our word for a protocol, and its ports: plain, and TLS at once.
var families = map[string]struct {
	name, secure string
	plain, tls   int
}{
	"imap4": {"imap", "imaps", 143, 993}, "imap4s": {"imap", "imaps", 143, 993},
	"pop3": {"pop3", "pop3s", 110, 995}, "pop3s": {"pop3", "pop3s", 110, 995},
	"managesieve": {"managesieve", "", 4190, 4190},
}

// modes are the words of ssl_mode in effect: a protocol with TLS at once has
// it on both sides unless something is said.
func (p *instance) modes() []string {
	v := strings.ToLower(p.last["ssl_mode"])
	if v == "" {
		if strings.HasSuffix(p.protocol, "s") {
			return []string{"ssl_listen", "ssl_outgoing"}
		}
		return nil
	}
	var out []string
	for m := range strings.SplitSeq(v, ",") {
		base, force := strings.CutSuffix(m, "_force")
		if side, all := strings.CutSuffix(base, "_all"); all {
			out = append(out, side+"_listen", side+"_outgoing")
			if force {
				out = append(out, side+"_listen_force", side+"_outgoing_force")
			}
			continue
		}
		out = append(out, base)
		if force {
			out = append(out, m)
		}
	}
	return out
}

// portOf reads a port, which may have a name.
func portOf(s string) (int, error) {
	if n, err := strconv.ParseUint(s, 10, 16); err == nil && n > 0 {
		return int(n), nil
	}
	if n, ok := map[string]int{"imap2": 143, "imap": 143, "imap4": 143, "imaps": 993, "pop3": 110, "pop-3": 110, "pop3s": 995, "sieve": 4190}[s]; ok {
		return n, nil
	}
	return net.LookupPort("tcp", s)
}

// listeners translates where the instance listens, and TLS there.
func (im *importer) listeners(p *instance) {
	f, modes := families[p.protocol], p.modes()
	name := f.name
	port := f.plain
	if strings.HasSuffix(p.protocol, "s") {
		port = f.tls
	}
	if slices.Contains(modes, "ssl_listen") {
		name = cmp.Or(f.secure, f.name)
	} else {
		im.cleartext(p, slices.Contains(modes, "tls_listen_force"), slices.Contains(modes, "tls_listen"))
	}
	if v := p.last["listen_port"]; v != "" {
		n, err := portOf(v)
		if err != nil {
			im.say(p, "listen_port", lost, "the name of the port is not known here")
			return
		}
		port = n
		im.say(p, "listen_port", kept, "")
	}
	addrs := []string{fmt.Sprintf(":%d", port)}
	if v := p.last["bind_address"]; v != "" {
		addrs = nil
		for a := range strings.SplitSeq(v, ",") {
			l := directory.ParsePopmapValue(a, p.delimiter())
			addrs = append(addrs, net.JoinHostPort(l.Host, cmp.Or(l.Port, strconv.Itoa(port))))
		}
		im.say(p, "bind_address", kept, "")
	}
	if !config.Serves(name) || name == "managesieve" && slices.Contains(modes, "ssl_listen") {
		im.report.add(Item{Option: "protocol", Value: p.protocol, Where: p.name, Effect: lost, Why: "listeners of this kind are not served by this version"})
		return
	}
	for _, a := range addrs {
		if !slices.Contains(im.conf.Listen[name], a) {
			im.conf.Listen[name] = append(im.conf.Listen[name], a)
		}
	}
	if len(modes) > 0 {
		im.certificate(p)
	}
}

// cleartext keeps the rule for clients without TLS, and says that it is weak.
func (im *importer) cleartext(p *instance, forced, offered bool) {
	if forced {
		return
	}
	im.conf.TLS.Cleartext = string(config.CleartextAlways)
	why := "clients may log in without TLS, as before; better say tls.cleartext_login: never"
	if !offered {
		why = "STARTTLS is offered, which it was not; " + why
	}
	im.report.add(Item{Option: "ssl_mode", Value: p.last["ssl_mode"], Where: p.name, Effect: changed, To: "tls.cleartext_login: always", Why: why})
}

func (p *instance) delimiter() string { return cmp.Or(p.last["domain_delimiter"], "@") }

func readable(path string) bool {
	f, err := os.Open(path)
	if err == nil {
		f.Close()
	}
	return err == nil
}

// certificate names the files that exist; a configuration that names others
// would be refused.
func (im *importer) certificate(p *instance) {
	cert := cmp.Or(p.last["ssl_cert_file"], "/etc/perdition/perdition.crt.pem")
	key := cmp.Or(p.last["ssl_key_file"], "/etc/perdition/perdition.key.pem")
	if !readable(cert) || !readable(key) {
		im.say(p, "ssl_cert_file", lost, fmt.Sprintf("%s or %s cannot be read here; name the files in tls.certificates", cert, key))
		return
	}
	im.say(p, "ssl_cert_file", kept, "")
	im.say(p, "ssl_key_file", kept, "")
	pair := map[string]string{"cert": cert, "key": key}
	if !slices.ContainsFunc(im.conf.TLS.Certificates, func(have map[string]string) bool { return have["cert"] == cert && have["key"] == key }) {
		im.conf.TLS.Certificates = append(im.conf.TLS.Certificates, pair)
	}
}

// storeName is the store for every host that a map names; defaultName is the
// first of outgoing_server.
const (
	storeName   = "mailstores"
	defaultName = "default"
)

// stores translates how the instance reaches the stores.
func (im *importer) stores(p *instance) {
	f, modes := families[p.protocol], p.modes()
	mode, port := "none", f.plain
	switch {
	case slices.Contains(modes, "ssl_outgoing"):
		mode, port = "implicit", f.tls
	case slices.Contains(modes, "tls_outgoing"):
		mode = "starttls"
		if !slices.Contains(modes, "tls_outgoing_force") {
			im.say(p, "ssl_mode", changed, "stores without STARTTLS are refused: otherwise anybody in between could take it away")
		}
	}
	if strings.HasSuffix(p.protocol, "s") {
		port = f.tls
	}
	if p.has("ssl_mode") {
		im.say(p, "ssl_mode", kept, "")
	}
	if v := p.last["outgoing_port"]; v != "" {
		n, err := portOf(v)
		if err != nil {
			im.say(p, "outgoing_port", lost, "the name of the port is not known here")
		} else {
			port = n
			im.say(p, "outgoing_port", kept, "")
		}
	}
	s := confStore{Name: storeName, Type: "generic", TLS: mode, Ports: map[string]int{f.name: port}}
	if mode != "none" {
		s.CA = im.authority(p)
	}
	im.addStore(p, s)
	if v := p.last["outgoing_server"]; v != "" {
		first, rest, more := strings.Cut(v, ",")
		l := directory.ParsePopmapValue(first, p.delimiter())
		d := s
		d.Name, d.Address, d.Ports = defaultName, l.Host, map[string]int{f.name: port}
		if n, err := portOf(l.Port); l.Port != "" && err == nil {
			d.Ports[f.name] = n
			im.place(directory.PopmapLine{Host: l.Host})
		}
		if more {
			im.say(p, "outgoing_server", changed, "users go to the first server; "+rest+" are not used in turn")
		} else {
			im.say(p, "outgoing_server", kept, "")
		}
		im.addStore(p, d)
	}
}

func (im *importer) authority(p *instance) string {
	file := p.last["ssl_ca_file"]
	switch {
	case file == "":
		return ""
	case !readable(file):
		im.say(p, "ssl_ca_file", lost, "the file cannot be read here; name it in stores[].ca")
		return ""
	}
	im.say(p, "ssl_ca_file", kept, "")
	return file
}

// addStore joins the ports that the instances use for one store; TLS is what
// the first of them says.
func (im *importer) addStore(p *instance, s confStore) {
	for i := range im.conf.Stores {
		have := &im.conf.Stores[i]
		if have.Name != s.Name {
			continue
		}
		if have.TLS != s.TLS || have.Address != s.Address {
			im.report.add(Item{Option: "ssl_mode", Value: p.last["ssl_mode"], Where: cmp.Or(p.name, p.protocol), Effect: changed, To: "stores[].tls",
				Why: fmt.Sprintf("the instance of %s reaches stores by tls %s; all use %s, as the first one does", p.protocol, s.TLS, have.TLS)})
			return
		}
		for name, port := range s.Ports {
			if have.Ports[name] == 0 {
				have.Ports[name] = port
			}
		}
		return
	}
	im.conf.Stores = append(im.conf.Stores, s)
}
