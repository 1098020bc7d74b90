package perdition

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestFiles: keys, values, quotes, escapes, comments and continued lines.
func TestFiles(t *testing.T) {
	text := "# a comment\n\nl 143 # another\ngroup  mail \na\nquery_key \\\\u,\\\\D\\\\d\nok_line \"with 'single' \\\"double\\\" \"\nm 'it # is'\\ \n" +
		"outgoing_server one,\\\ntwo\n  indented key\ntimeout 5"
	want := []string{"-l", "143", "--group", "mail", "-a", "--query_key", `\u,\D\d`, "--ok_line", `with 'single' "double" `, "-m", "it # is ",
		"--outgoing_server", "one,two", "indented key", "--timeout"}
	if got := dashed(text); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if !unfinished(text) || unfinished("a\n") || unfinished("a\n# b") {
		t.Error("unfinished lines are not told")
	}
}

func TestArguments(t *testing.T) {
	list, left, err := parseArgs([]string{"-Uol", "143", "--strip_domain=all", "word", "-Simap", "--add_domain", "all,2"}, "here")
	var got []string
	for _, g := range list {
		got = append(got, g.opt.long+"="+g.value)
	}
	want := []string{"username_from_database=", "server_resp_line=", "listen_port=143", "strip_domain=all", "strip_domain=imap", "add_domain=all,2"}
	if err != nil || !slices.Equal(got, want) || !slices.Equal(left, []string{"word"}) {
		t.Errorf("%q %q %v", got, left, err)
	}
	for _, bad := range [][]string{{"--nothing"}, {"-X"}, {"--timeout"}, {"-l"}, {"--l", "1"}} {
		if _, _, err := parseArgs(bad, "here"); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// TestEveryOptionIsExplained: each has our setting or a reason.
func TestEveryOptionIsExplained(t *testing.T) {
	for _, o := range options {
		if o.to == "" && o.reason == "" && o.long != "config_file" {
			t.Errorf("%s: neither a setting nor a reason", o.long)
		}
		if (o.effect == lost || o.effect == dropped) && o.reason == "" {
			t.Errorf("%s: lost without a reason", o.long)
		}
	}
}

func TestLDAPURLs(t *testing.T) {
	m, err := parseLDAP("3:ldaps://one two:1636/ou=a%20b,dc=x?uid,host,port?sub?(%26(uid=%s)(x=1))?!bindname=cn=r%2cdc=x,X-BINDPW=a%3fb")
	if err != nil || len(m.problems) > 0 {
		t.Fatal(m, err)
	}
	if !slices.Equal(m.servers, []string{"ldaps://one:1636", "ldaps://two:1636"}) || m.base != "ou=a b,dc=x" || m.filter != "(&(uid={user})(x=1))" ||
		m.user+m.host+m.port != "uidhostport" || m.scope != "sub" || m.bindDN != "cn=r,dc=x" || m.password != "a?b" {
		t.Errorf("%+v", m)
	}
	if m, err = parseLDAP(""); err != nil || m.base != "ou=mailbox,dc=nodomain" || m.scope != "one" {
		t.Errorf("%+v %v", m, err)
	}
	for url, want := range map[string]string{
		"ldap://%s.example/dc=x?a,b?sub?(uid=%s)":            "host of the directory",
		"ldap://h/uid=%s,dc=x?a,b?base?(x=*)":                "in the filter only",
		"ldap://h/dc=x?a,b?sub?(uid=%12s)":                   "padded",
		"ldap://h/dc=x?a,b?sub?(uid=%s)?bindname=uid=%25s":   "who searches",
		"ldap://h/dc=x?a,b?sub?(uid=%s)?!x-tls":              "critical extension",
		"ldapi://%2frun%2fldapi/dc=x?a,b?sub?(uid=%s)":       "ldapi",
		"ldap://h/dc=x?a?sub?(uid=%s)":                       "taken apart",
		"ldap://h/dc=x?a,%s?sub?(uid=%s)":                    "choose attributes",
		"ldap://h/?a,b?sub?(uid=%s)":                         "needs a base",
		"ldap://h/dc=x?a,b?sub?(objectClass=inetOrgPerson)?": "does not compare",
	} {
		m, err := parseLDAP(url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		if all := strings.Join(m.check(false), "; "); !strings.Contains(all, want) {
			t.Errorf("%s: %q, want %q", url, all, want)
		}
	}
	if _, err := parseLDAP("3:http://x/"); err == nil {
		t.Error("http is taken")
	}
}

// TestRules: what a rule of the map makes of a key.
func TestRules(t *testing.T) {
	for _, c := range []struct{ line, key, want string }{
		{"^[a-k]: host", "anna", "host"},
		{"^user: user2@host:143", "user9", "user2@host:143"},
		{"(.*)@(.*): $1_$2@host", "a@b.c", "a_b.c@host"},
		{"flim: host", "itsflimsy", "itshost"}, // what stands before the match stays
		{"^a$ $1x", "a", "$1x"},                // there is no such group
		{`'^a\.b[\]x]': host`, `a.b\`, ""},     // in brackets a backslash is a letter
		{`'^[]a]+': host`, "]", "host"},
	} {
		rules, errs := parseRegexMap(c.line+"\n", "@")
		if len(errs) > 0 || len(rules) != 1 {
			t.Errorf("%s: %v %v", c.line, rules, errs)
			continue
		}
		re := regexp.MustCompile("^(?:" + rules[0].pattern + ")$")
		l := rules[0].line
		text := l.Store()
		if l.User != "" {
			text = l.User + "@" + text
		}
		got := ""
		if m := re.FindStringSubmatchIndex(c.key); m != nil {
			got = string(re.ExpandString(nil, text, c.key, m))
		}
		if got != c.want {
			t.Errorf("%s: %q makes %q, want %q (%+v)", c.line, c.key, got, c.want, rules[0])
		}
	}
	for _, bad := range []string{`'(a)\1': h`, `^: h`, `a*: h`, `'a**': h`, `'a\w': h`, `'[[.a.]]': h`, `'a{,2}b': h`, `'[a': h`, `'a\': h`} {
		if _, errs := parseRegexMap(bad+"\n", "@"); len(errs) != 1 {
			t.Errorf("%s: taken without a word", bad)
		}
	}
}

func TestDefaultsFile(t *testing.T) {
	flags, ok := defaultsFile("# x\nRUN_PERDITION=yes\nFLAGS=\"--timeout 3600\"\nIMAP4=yes\nIMAP4_FLAGS='--ssl_mode tls_listen'\nPOP3=no\n")
	if !ok || len(flags) != 1 || !slices.Equal(flags["imap4"], []string{"--timeout", "3600", "--ssl_mode", "tls_listen"}) {
		t.Errorf("%v %q", ok, flags)
	}
	if _, ok := defaultsFile("map_library x\n"); ok {
		t.Error("a configuration is taken for the init script's file")
	}
}
