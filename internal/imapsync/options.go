package imapsync

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"mailferry/backend"
)

type kind int

const (
	flagKind kind = iota
	valueKind
)

// option is one of imapsync's. Exactly one of set, why and neither: it has a
// meaning here, it is refused, or it changes nothing.
type option struct {
	names []string // the first is the name; ! forms are found by find
	kind  kind
	says  string // for the table: what it does here, or why it needs nothing
	set   func(j *Job, v string) error
	no    func(j *Job) error
	why   string // it is refused
}

func side(n string, j *Job) *Side {
	if n == "1" {
		return &j.From
	}
	return &j.To
}

// both makes an option for each server.
func both(name string, k kind, says string, set func(s *Side, v string) error, no func(s *Side)) []option {
	var out []option
	for _, n := range []string{"1", "2"} {
		o := option{names: []string{name + n}, kind: k, says: says, set: func(j *Job, v string) error { return set(side(n, j), v) }}
		if no != nil {
			o.no = func(j *Job) error { no(side(n, j)); return nil }
		}
		out = append(out, o)
	}
	return out
}

func refused(why string, k kind, names ...string) []option {
	var out []option
	for _, n := range names {
		out = append(out, option{names: strings.Split(n, "|"), kind: k, why: why})
	}
	return out
}

func ignored(says string, k kind, names ...string) []option {
	var out []option
	for _, n := range names {
		out = append(out, option{names: strings.Split(n, "|"), kind: k, says: says})
	}
	return out
}

func text(says, name string, to func(j *Job) *string) option {
	return option{names: []string{name}, kind: valueKind, says: says, set: func(j *Job, v string) error { *to(j) = v; return nil }}
}

func list(says, name string, to func(j *Job) *[]string) option {
	return option{names: []string{name}, kind: valueKind, says: says, set: func(j *Job, v string) error {
		*to(j) = append(*to(j), v)
		return nil
	}}
}

func on(says, name string, to func(j *Job) *bool) option {
	return option{names: strings.Split(name, "|"), says: says, set: func(j *Job, _ string) error { *to(j) = true; return nil },
		no: func(j *Job) error { *to(j) = false; return nil }}
}

var options = concat(
	both("host", valueKind, "the server", func(s *Side, v string) error { s.Host = v; return nil }, nil),
	both("port", valueKind, "its port; default 993, or 143 without TLS from the beginning", func(s *Side, v string) (err error) {
		s.Port, err = strconv.Atoi(v)
		return err
	}, nil),
	both("user", valueKind, "the user there", func(s *Side, v string) error { s.User = v; return nil }, nil),
	both("password", valueKind, "the password; others on the machine can see it: better a file", func(s *Side, v string) error {
		s.Password = backend.Secret(v)
		return nil
	}, nil),
	both("passfile", valueKind, "a file whose first line is the password", passfile, nil),
	both("authuser", valueKind, "an admin who logs in for the user, by SASL PLAIN; the password is the admin's", func(s *Side, v string) error {
		s.AuthUser = v
		return nil
	}, nil),
	both("proxyauth", flagKind, "the admin of --authuser becomes the user by PROXYAUTH", func(s *Side, _ string) error { s.ProxyAuth = true; return nil }, nil),
	both("authmech", valueKind, "PLAIN and LOGIN, which are chosen without it; others are refused", authmech, nil),
	both("ssl", flagKind, "TLS from the beginning; the certificate is checked", func(s *Side, _ string) error { s.ssl = true; return nil }, func(s *Side) { s.nossl = true }),
	both("tls", flagKind, "STARTTLS; the certificate is checked", func(s *Side, _ string) error { s.tls = true; return nil }, func(s *Side) { s.notls = true }),
	both("sslargs", valueKind, "SSL_verify_mode=0: any certificate will do; others are refused", sslargs, nil),
	both("sieveport", valueKind, "(ours) its port of ManageSieve, always with STARTTLS unless TLS is off; default 4190, if anybody answers there", func(s *Side, v string) (err error) {
		s.SievePort, err = strconv.Atoi(v)
		return err
	}, nil),
	both("popport", valueKind, "(ours) its port of POP3: with both, the report tells how many unique ids differ, which IMAP cannot set", func(s *Side, v string) (err error) {
		s.POP3Port, err = strconv.Atoi(v)
		return err
	}, nil),
	[]option{
		{names: []string{"gmail1"}, says: gmailSays, set: gmail("1")},
		{names: []string{"gmail2"}, says: gmailSays, set: gmail("2")},
		{names: []string{"office1"}, says: "host and TLS of Office 365, --exclude '^Files$'", set: func(j *Job, _ string) error {
			j.Filter.Exclude = append(j.Filter.Exclude, "^Files$")
			well(&j.From, "outlook.office365.com")
			return nil
		}},
		{names: []string{"office2"}, says: "host and TLS of Office 365", set: func(j *Job, _ string) error {
			well(&j.To, "outlook.office365.com")
			return nil
		}},
		list("this mailbox", "folder", func(j *Job) *[]string { return &j.Filter.Mailboxes }),
		list("this mailbox and those below", "folderrec", func(j *Job) *[]string { return &j.Filter.Trees }),
		list("first of all", "folderfirst", func(j *Job) *[]string { return &j.Filter.First }),
		list("last of all", "folderlast", func(j *Job) *[]string { return &j.Filter.Last }),
		list("mailboxes that match; names are UTF-8, the expression is RE2's", "include", func(j *Job) *[]string { return &j.Filter.Include }),
		list("not those that match", "exclude", func(j *Job) *[]string { return &j.Filter.Exclude }),
		{names: []string{"noexclude"}, says: "nothing is excluded", set: func(j *Job, _ string) error { j.Filter.Exclude = nil; return nil }},
		on("only subscribed mailboxes", "subscribed", func(j *Job) *bool { return &j.Filter.OnlySubscribed }),
		{names: []string{"subscribe"}, says: "default: what is subscribed at the source is at the target",
			set: func(j *Job, _ string) error { j.Rules.NoSubscribe = false; return nil }, no: func(j *Job) error { j.Rules.NoSubscribe = true; return nil }},
		on("every mailbox is subscribed at the target", "subscribeall|subscribe_all", func(j *Job) *bool { return &j.Rules.SubscribeAll }),
		on("mailboxes without mail are not created", "skipemptyfolders", func(j *Job) *bool { return &j.Filter.SkipEmpty }),
		on("mailboxes of equal special use go together (Sent, Drafts, Trash, Junk, Archive)", "automap", func(j *Job) *bool { return &j.Rules.Automap }),
		{names: []string{"f1f2"}, kind: valueKind, says: "source=target, names as shown", set: f1f2},
		{names: []string{"nof1f2"}, says: "no such pair", set: func(j *Job, _ string) error { j.Rules.Map = nil; return nil }},
		text("the mailbox at the target below which all go", "subfolder2", func(j *Job) *string { return &j.Rules.Subfolder }),
		{names: []string{"prefix2"}, kind: valueKind, says: "in place of what NAMESPACE tells", set: func(j *Job, v string) error { j.Rules.Prefix = &v; return nil }},
		text("in place of what NAMESPACE tells", "sep2", func(j *Job) *string { return &j.Rules.Separator }),
		list("s/// and tr/// on the target's names in UTF-8; expressions are RE2's", "regextrans2", func(j *Job) *[]string { return &j.Rules.Regex }),
		list("s/// and tr/// on a message's flags, joined by blanks", "regexflag", func(j *Job) *[]string { return &j.Filter.FlagMap }),
		{names: []string{"noregexflag"}, says: "no such substitution", set: func(j *Job, _ string) error { j.Filter.FlagMap = nil; return nil }},
		{names: []string{"resyncflags"}, says: "default: flags that change at the source change at the target; --noresyncflags leaves them",
			set: func(j *Job, _ string) error { j.Rules.NoFlags = false; return nil }, no: func(j *Job) error { j.Rules.NoFlags = true; return nil }},
		on("messages that the source does not have are expunged at the target; not more than a tenth of a mailbox without --mass-delete", "delete2", func(j *Job) *bool { return &j.Rules.Delete }),
		on("the same for mailboxes", "delete2folders", func(j *Job) *bool { return &j.Rules.DeleteFolders }),
		on("(ours) lets --delete2 and --delete2folders take more than a tenth", "mass-delete", func(j *Job) *bool { return &j.Rules.MassDelete }),
		{names: []string{"maxsize"}, kind: valueKind, says: "smaller messages only", set: func(j *Job, v string) error { return octets(v, -1, &j.Filter.MaxSize) }},
		{names: []string{"minsize"}, kind: valueKind, says: "larger messages only", set: func(j *Job, v string) error { return octets(v, 1, &j.Filter.MinSize) }},
		{names: []string{"appendlimit"}, kind: valueKind, says: "the largest message that the target takes; it is asked anyway", set: func(j *Job, v string) error { return octets(v, 0, &j.Rules.MaxSize) }},
		{names: []string{"maxage"}, kind: valueKind, says: "INTERNALDATE within so many days", set: func(j *Job, v string) error { return days(v, &j.Filter.MaxAge) }},
		{names: []string{"minage"}, kind: valueKind, says: "INTERNALDATE before so many days", set: func(j *Job, v string) error { return days(v, &j.Filter.MinAge) }},
		text("an IMAP search criterion for the source's messages", "search", func(j *Job) *string { return &j.Filter.Search }),
		text("the same", "search1", func(j *Job) *string { return &j.Filter.Search }),
		{names: []string{"syncacls"}, says: "access rights are set at the target, too (between stores of a node: unless --nosyncacls); names of others change as the account's own does",
			set: func(j *Job, _ string) error { j.SyncACLs, j.NoSyncACLs = true, false; return nil },
			no:  func(j *Job) error { j.SyncACLs, j.NoSyncACLs = false, true; return nil }},
		{names: []string{"acluser"}, kind: valueKind, says: "(ours) source=target: what somebody whom access rights name is called at the target; group:name for groups", set: acluser},
		{names: []string{"syncquota"}, says: "(ours) default: the quota is set, where the target lets users or the admin do so; --nosyncquota leaves it",
			set: func(j *Job, _ string) error { j.Rules.NoQuota = false; return nil }, no: func(j *Job) error { j.Rules.NoQuota = true; return nil }},
		{names: []string{"syncmetadata"}, says: "(ours) default: annotations (METADATA) are set; --nosyncmetadata leaves them",
			set: func(j *Job, _ string) error { j.Rules.NoMetadata = false; return nil }, no: func(j *Job) error { j.Rules.NoMetadata = true; return nil }},
		{names: []string{"syncsieve"}, says: "(ours) default: Sieve scripts are carried over by ManageSieve; --nosyncsieve leaves them",
			set: func(j *Job, _ string) error { j.Rules.NoSieve = false; return nil }, no: func(j *Job) error { j.Rules.NoSieve = true; return nil }},
		on("check and plan only; says what would be created, set and deleted (mailboxes)", "dry", func(j *Job) *bool { return &j.Dry }),
		on("the same", "dry1", func(j *Job) *bool { return &j.Dry }),
		on("mailboxes and subscriptions, no mail", "justfolders", func(j *Job) *bool { return &j.Filter.FoldersOnly }),
		on("logs in at the source and plans, changes nothing", "justlogin", func(j *Job) *bool { return &j.Dry }),
		on("the same", "justconnect", func(j *Job) *bool { return &j.Dry }),
		on("the same; the report has the sizes", "justfoldersizes", func(j *Job) *bool { return &j.Dry }),
	},

	refused("the source is never changed", flagKind, "delete|delete1", "expunge1|expunge", "delete1emptyfolders", "expungeaftereach"),
	refused("messages arrive as they are: their octets are never changed", valueKind, "regexmess", "pipemess", "truncmess"),
	refused("messages arrive as they are: their octets are never changed", flagKind, "addheader", "disarmreadreceipts", "idatefromheader"),
	refused("messages are told by UID and content, so no copy doubles; what the owner has twice stays", flagKind, "delete2duplicates"),
	refused("each mailbox gets all of its mail; what has several Gmail labels is in each of theirs", flagKind, "skipcrossduplicates"),
	refused("say it with --search", valueKind, "skipmess", "search2"),
	refused("say it with --exclude and --delete2folders", valueKind, "delete2foldersonly", "delete2foldersbutnot"),
	refused("say it with --folderrec and --regextrans2", valueKind, "subfolder1"),
	refused("say it with --f1f2", valueKind, "f1f2h"),
	refused("labels are Gmail's own; the mailboxes that show them are copied", flagKind, "synclabels", "resynclabels", "debuglabels"),
	refused("a limit of messages or octets belongs to a store: max_connections, and the throttle of a node", valueKind,
		"maxmessagespersecond", "maxbytespersecond", "maxbytesafter", "maxsleep", "exitwhenover"),
	refused("the target's own limit is met and reported", valueKind, "maxlinelength", "maxlinelengthcmd", "minmaxlinelength"),
	refused("passwords are never shown", flagKind, "showpasswords"),
	refused("login by PLAIN, LOGIN or PROXYAUTH only; tokens are configured with a store (login mode oauth)", valueKind,
		"oauthdirect1", "oauthdirect2", "oauthaccesstoken1", "oauthaccesstoken2", "domain1", "domain2"),
	refused("login by PLAIN, LOGIN or PROXYAUTH only", flagKind, "authmd5", "authmd51", "authmd52"),
	refused("Go decides on TLS versions: 1.2 and up", valueKind, "ssl1_ssl_version", "ssl2_ssl_version"),
	refused("say host, port and TLS", flagKind, "exchange1", "exchange2", "domino1", "domino2"),
	refused("stop the process: it goes on where it stood", flagKind, "abort", "abortbyfile", "exitonload"),
	refused("reports are files", flagKind, "emailreport1", "emailreport2"),
	refused("reports are files", valueKind, "emailreportfrom"),
	refused("a thing of imapsync's own", flagKind, "tests", "testsdebug|tests_debug", "testslive", "testslive6", "justbanner", "justautomap", "justfolderlists",
		"dockercontext", "memorystress", "checkselectable", "checkfoldersexist", "checkmessageexists", "checknoabletosearch", "create_folder_old"),
	refused("a thing of imapsync's own", valueKind, "testsunit", "var", "simulong", "fetch_hash_set", "debugsleep"),

	ignored("always so: messages are told by UID and content, and a map is kept", flagKind, "useuid", "usecache", "cacheaftercopy", "syncduplicates",
		"wholeheaderifneeded", "messageidnodomain", "skipsize", "allowsizemismatch", "uid1", "uid2"),
	ignored("needs no header to know a message", valueKind, "useheader", "skipheader"),
	ignored("always so", flagKind, "syncinternaldates", "expunge2", "uidexpunge2", "syncflagsaftercopy", "filterflags", "filterbuggyflags", "flagscase",
		"fixslash2", "fixInboxINBOX", "sanitize", "mixfolders", "fixcolonbug", "pidfilelocking", "keepalive1", "keepalive2", "sslcheck", "inet4|ipv4", "inet6|ipv6", "trylogin",
		"pipemesscheck", "noregexmess"),
	ignored("the server tells it", valueKind, "prefix1", "sep1"),
	ignored("the server tells it", flagKind, "abletosearch", "abletosearch1", "abletosearch2", "id"),
	ignored("chosen by itself", flagKind, "compress1", "compress2", "fastio1", "fastio2", "foldersizes", "foldersizesatend"),
	ignored("chosen by itself", valueKind, "split1", "split2", "buffersize", "timeout", "timeout1", "timeout2", "reconnectretry1", "reconnectretry2", "errorsmax"),
	ignored("the state is kept in --state DIR", valueKind, "tmpdir", "tmphash", "pidfile", "logfile", "logdir"),
	ignored("no such output", flagKind, "log", "loglogfile", "tail", "releasecheck", "modulesversion|modules_version", "errorsdump", "debug", "debuglist", "debugcontent",
		"debugflags", "debugimap", "debugimap1", "debugimap2", "debugdev", "debugmemory", "debugfolders", "debugcgi", "debugenv", "debugsig", "debugcache",
		"debugcrossduplicates", "debugmaxlinelength"),
	ignored("no such output", valueKind, "debugssl", "sigexit", "sigreconnect", "sigignore"),
)

// alwaysOn are options that cannot be switched off.
var alwaysOn = []string{"syncinternaldates", "expunge2", "uidexpunge2", "filterflags", "syncflagsaftercopy"}

func concat(lists ...[]option) (out []option) {
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

func passfile(s *Side, v string) error {
	b, err := os.ReadFile(v)
	if err != nil {
		return err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	s.Password = backend.Secret(strings.TrimRight(line, "\r"))
	return nil
}

func authmech(_ *Side, v string) error {
	if m := strings.ToUpper(v); m != "PLAIN" && m != "LOGIN" {
		return fmt.Errorf("%s is not to be had: login is by PLAIN, LOGIN or PROXYAUTH", v)
	}
	return nil
}

func sslargs(s *Side, v string) error {
	if v != "SSL_verify_mode=0" && v != "SSL_verify_mode=1" {
		return fmt.Errorf("%q is not understood: only SSL_verify_mode=0 or 1", v)
	}
	s.Insecure = strings.HasSuffix(v, "0")
	return nil
}

// well sets a host that everybody knows, unless one was said.
func well(s *Side, host string) {
	if s.Host == "" {
		s.Host = host
	}
	s.ssl = !s.nossl
}

const gmailSays = "host and TLS of Gmail, --automap, `[Gmail]/` taken off the names, All Mail last; no limit of its own, and mail with several labels " +
	"is in each of their mailboxes (--skipcrossduplicates)"

func gmail(n string) func(*Job, string) error {
	return func(j *Job, _ string) error {
		well(side(n, j), "imap.gmail.com")
		j.Rules.Automap = true
		if strip := `s,\[Gmail\].,,`; !slices.Contains(j.Rules.Regex, strip) {
			j.Rules.Regex = append(j.Rules.Regex, strip)
		}
		if all := "[Gmail]/All Mail"; !slices.Contains(j.Filter.Last, all) {
			j.Filter.Last = append(j.Filter.Last, all)
		}
		return nil
	}
}

func acluser(j *Job, v string) error {
	from, to, ok := strings.Cut(v, "=")
	if !ok || from == "" || to == "" {
		return fmt.Errorf("%q is not source=target", v)
	}
	if j.Rules.Identifiers == nil {
		j.Rules.Identifiers = make(map[string]string)
	}
	j.Rules.Identifiers[from] = to
	return nil
}

func f1f2(j *Job, v string) error {
	from, to, ok := strings.Cut(v, "=")
	if !ok || from == "" || to == "" {
		return fmt.Errorf("%q is not source=target", v)
	}
	if j.Rules.Map == nil {
		j.Rules.Map = make(map[string]string)
	}
	j.Rules.Map[from] = to
	return nil
}

// Table is the body of docs/imapsync.md: every option, and what it is here.
func Table() string {
	var b strings.Builder
	b.WriteString("| imapsync | here |\n| --- | --- |\n")
	for _, o := range options {
		names := "`--" + strings.Join(o.names, "`, `--") + "`"
		switch {
		case o.why != "":
			fmt.Fprintf(&b, "| %s | refused: %s |\n", names, o.why)
		case o.set == nil:
			fmt.Fprintf(&b, "| %s | no effect: %s |\n", names, o.says)
		default:
			fmt.Fprintf(&b, "| %s | %s |\n", names, o.says)
		}
	}
	return b.String()
}
