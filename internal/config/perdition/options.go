package perdition

import (
	"fmt"
	"strings"
)

// option is one of Perdition's options. reason says why none of ours is its
// equal; empty: translated (see translate.go).
type option struct {
	long   string
	short  byte // 0: none
	arg    bool
	effect effect
	to     string // our setting
	reason string // why there is none, or what differs
}

// effect is what becomes of an option.
type effect int

const (
	kept    effect = iota // means the same
	changed               // translated, with a difference
	dropped               // has no equal, and needs none: nothing is lost
	lost                  // has no equal: somebody must decide
)

func (e effect) String() string { return [...]string{"kept", "changed", "dropped", "lost"}[e] }

// options are all of Perdition 2.2's, in the order of its manual page.
var options = []option{
	{"add_domain", 'A', true, kept, "directories[].names: lookup.add_domain, login.add_domain", "needs explicit_domain: the domain of the address that a client reached is not looked up"},
	{"authenticate_timeout", 0, true, kept, "limits.login_timeout", "at most 60s, because a connection without a login costs memory"},
	{"authenticate_in", 'a', false, lost, "", "PAM is not asked; the store checks the password, or an LDAP directory by a bind (passwords: bind)"},
	{"no_bind_banner", 'B', false, dropped, "", "the greeting names no host"},
	{"bind_address", 'b', true, kept, "listen", ""},
	{"connection_logging", 'C', false, dropped, "", "dialogues are never logged: they hold passwords"},
	{"connect_relog", 0, true, dropped, "", "the log has one line per login and one per end; mailferry who lists the sessions there are"},
	{"client_server_specification", 'c', false, lost, "", "clients could reach any host behind the proxy; name the stores and let a directory choose"},
	{"domain_delimiter", 'D', true, kept, "directories[].names.delimiter", ""},
	{"debug", 'd', false, kept, "log.level: debug", ""},
	{"explicit_domain", 'e', true, kept, "directories[].names: lookup.add_domain, login.add_domain", ""},
	{"log_facility", 'F', true, dropped, "", "the log goes to standard error, from where the service manager takes it"},
	{"config_file", 'f', true, kept, "", "the file is read"},
	{"group", 'g', true, dropped, "", "the service manager starts the program as an unprivileged user"},
	{"help", 'h', false, dropped, "", "says nothing about the set-up"},
	{"capability", 'I', true, dropped, "", "capabilities are those that the stores of a move group share"},
	{"imap_capability", 0, true, dropped, "", "capabilities are those that the stores of a move group share"},
	{"inetd_mode", 'i', false, lost, "", "there is no inetd mode: the program listens by itself"},
	{"connection_limit", 'L', true, kept, "limits.connections", ""},
	{"listen_port", 'l', true, kept, "listen", ""},
	{"login_disabled", 0, false, lost, "", "a listener cannot refuse all logins; leave it out, or disable users in the directory"},
	{"log_passwd", 0, true, dropped, "", "passwords are never logged"},
	{"lower_case", 0, true, kept, "directories[].names: lookup.lower_case, login.lower_case", ""},
	{"managesieve_capability", 0, true, dropped, "", "capabilities are those that the stores of a move group share"},
	{"map_library", 'M', true, kept, "directories", ""},
	{"map_library_opt", 'm', true, kept, "directories", ""},
	{"no_daemon", 0, false, dropped, "", "the program never detaches from its terminal"},
	{"no_lookup", 'n', false, dropped, "", "host names of stores are looked up; addresses are used as they are"},
	{"ok_line", 'O', true, dropped, "", "clients see the store's own answer to the login"},
	{"server_ok_line", 0, false, dropped, "", "clients always see the store's own answer to the login"},
	{"server_resp_line", 'o', false, kept, "", "clients always see the store's own answer to the login"},
	{"protocol", 'P', true, kept, "listen", ""},
	{"outgoing_port", 'p', true, kept, "stores[].ports", ""},
	{"pop_capability", 0, true, dropped, "", "capabilities are those that the stores of a move group share"},
	{"strip_domain", 'S', true, kept, "directories[].names: lookup.strip_domain, login.strip_domain", ""},
	{"outgoing_server", 's', true, kept, "a last directory that knows everybody", ""},
	{"pid_file", 0, true, dropped, "", "the service manager knows the process"},
	{"timeout", 't', true, kept, "limits.idle_timeout", "at least 30m, as RFC 9051 asks"},
	{"tcp_keepalive", 0, false, dropped, "", "always on"},
	{"username", 'u', true, dropped, "", "the service manager starts the program as an unprivileged user"},
	{"username_from_database", 'U', false, kept, "directories[].names.login.from: directory", ""},
	{"quiet", 'q', false, kept, "log.level: warn", ""},
	{"query_key", 0, true, kept, "directories[].names.key, one directory for each", "keys made of addresses and ports have no equal"},
	{"ssl_mode", 0, true, kept, "listen, stores[].tls, tls.cleartext_login", ""},
	{"ssl_ca_chain_file", 0, true, changed, "tls.certificates[].cert", "the file cert holds the certificate and, after it, its chain: append this one"},
	{"ssl_ca_file", 0, true, kept, "stores[].ca", ""},
	{"ssl_ca_path", 0, true, changed, "stores[].ca", "one file of authorities is read, no folder: join the folder's files"},
	{"ssl_ca_accept_self_signed", 0, false, lost, "", "name the authority in stores[].ca; certificates that nobody vouches for are refused"},
	{"ssl_cert_file", 0, true, kept, "tls.certificates[].cert", ""},
	{"ssl_dh_params_file", 0, true, dropped, "", "only key exchanges with elliptic curves are offered"},
	{"ssl_cert_accept_self_signed", 0, false, lost, "", "name the store's certificate itself in stores[].ca"},
	{"ssl_cert_accept_expired", 0, false, lost, "", "expired certificates are refused: renew the store's"},
	{"ssl_cert_accept_not_yet_valid", 0, false, lost, "", "certificates that are not valid yet are refused"},
	{"ssl_cert_verify_depth", 0, true, dropped, "", "chains are verified to any depth that is sensible"},
	{"ssl_key_file", 0, true, kept, "tls.certificates[].key", ""},
	{"ssl_no_cert_verify", 0, false, lost, "", "certificates of stores are always verified; name their authority in stores[].ca"},
	{"ssl_no_client_cert_verify", 0, false, dropped, "", "clients are asked for certificates only with tls.client_ca, for SASL EXTERNAL"},
	{"ssl_no_cn_verify", 0, false, lost, "", "names in certificates of stores are always verified; name the one there is in stores[].tls_name"},
	{"ssl_passphrase_fd", 0, true, lost, "", "key files have no passphrase: write the key without one, readable for the program only"},
	{"ssl_passphrase_file", 0, true, lost, "", "key files have no passphrase: write the key without one, readable for the program only"},
	{"ssl_listen_ciphers", 0, true, dropped, "", "cipher suites are those that Go holds safe"},
	{"ssl_outgoing_ciphers", 0, true, dropped, "", "cipher suites are those that Go holds safe"},
	{"ssl_listen_min_proto_version", 0, true, dropped, "", "TLS 1.2 is the least"},
	{"ssl_outgoing_min_proto_version", 0, true, dropped, "", "TLS 1.2 is the least"},
	{"ssl_listen_max_proto_version", 0, true, dropped, "", "there is no upper bound"},
	{"ssl_outgoing_max_proto_version", 0, true, dropped, "", "there is no upper bound"},
	{"ssl_listen_compression", 0, false, dropped, "", "TLS compression gives secrets away (CRIME) and does not exist here"},
	{"ssl_outgoing_compression", 0, false, dropped, "", "TLS compression gives secrets away (CRIME) and does not exist here"},
	{"ssl_no_cipher_server_preference", 0, false, dropped, "", "the order of cipher suites is that of Go"},
}

// find returns the option of a long name, or of a short one.
func findOption(name string) *option {
	for i := range options {
		o := &options[i]
		if o.long == name || len(name) == 1 && o.short == name[0] {
			return o
		}
	}
	return nil
}

// given is an option as it was written.
type given struct {
	opt   *option
	value string
	where string // the file, or the command line
}

// parseArgs reads options as popt does: --name value, --name=value, -x value,
// -xvalue, and letters without values in one word. Words that are no options
// are left over; the first mistake ends the reading, as it does there.
func parseArgs(args []string, where string) (list []given, left []string, err error) {
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case len(a) < 2 || a[0] != '-':
			if a != "" {
				left = append(left, a)
			}
			continue
		case a == "--":
			return list, append(left, args[i+1:]...), nil
		}
		next := func() (string, bool) {
			if i+1 >= len(args) {
				return "", false
			}
			i++
			return args[i], true
		}
		var more []given
		if name, ok := strings.CutPrefix(a, "--"); ok {
			more, err = longOption(name, where, next)
		} else {
			more, err = shortOptions(a[1:], where, next)
		}
		list = append(list, more...)
		if err != nil {
			return list, left, err
		}
	}
	return list, left, nil
}

func longOption(text, where string, next func() (string, bool)) ([]given, error) {
	name, value, has := strings.Cut(text, "=")
	o := findOption(name)
	if o == nil || len(name) == 1 {
		return nil, fmt.Errorf("%s: there is no option %q", where, name)
	}
	if o.arg && !has {
		if value, has = next(); !has {
			return nil, fmt.Errorf("%s: option %s needs a value", where, name)
		}
	}
	return []given{{o, value, where}}, nil
}

func shortOptions(letters, where string, next func() (string, bool)) ([]given, error) {
	var list []given
	for i := range len(letters) {
		o := findOption(letters[i : i+1])
		if o == nil {
			return list, fmt.Errorf("%s: there is no option %q", where, letters[i:i+1])
		}
		if !o.arg {
			list = append(list, given{o, "", where})
			continue
		}
		value := strings.TrimPrefix(letters[i+1:], "=")
		if value == "" {
			var ok bool
			if value, ok = next(); !ok {
				return list, fmt.Errorf("%s: option %s needs a value", where, o.long)
			}
		}
		return append(list, given{o, value, where}), nil
	}
	return list, nil
}
