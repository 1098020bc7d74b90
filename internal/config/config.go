// Package config turns a YAML file, the environment and defaults into one
// validated struct. It is the only package that knows how settings are
// written down: others get their own options from internal/app.
//
// Every mistake of a file is reported at once, each with its line. Secrets come
// from the file itself, from a file beside it (key_file) or from the
// environment (key_env).
package config

import (
	"time"

	"mailferry/backend"
)

// Config is the whole configuration of a node. Values are valid after Load and
// read-only from then on. The doc and default tags are the reference page.
type Config struct {
	Node        string        `mapstructure:"node" doc:"Name of this node: in logs, and in what proxies confirm to a migration." default:"node1"`
	Data        string        `mapstructure:"data" doc:"Directory of everything that this node keeps: the mailstore, generated certificates, journals of migrations, the socket of the commands. The flag --data overrides it." default:"mailferry-data"`
	Roles       []Role        `mapstructure:"roles" doc:"What this node does: proxy (IMAP, POP3, ManageSieve and LMTP listeners), store (our own mailstore), ingress (submission), migrate (moves users)." default:"proxy,store,ingress,migrate"`
	Listen      Listen        `mapstructure:"listen" doc:"Addresses to listen on, by protocol. A protocol that is not named keeps its default on loopback; an empty list turns it off. The flag --ports BASE moves all defaults to BASE, BASE+1 and so on, in this order."`
	TLS         TLS           `mapstructure:"tls" doc:"Certificates, and who may log in without TLS."`
	Tokens      Tokens        `mapstructure:"tokens" doc:"Logins with OAuth tokens (OAUTHBEARER, XOAUTH2). They are offered when a store has tokens: true, and shown to that store, which checks them."`
	Balancers   []string      `mapstructure:"balancers" doc:"Networks (10.0.0.0/8) of load balancers before the access protocols: their connections must begin with a PROXY header, version 1 or 2, and nobody else's may."`
	Log         Log           `mapstructure:"log" doc:"What is logged, and where. All of it is changed by a reload, which also opens log files anew."`
	Limits      Limits        `mapstructure:"limits" doc:"Bounds that keep one client or one message from harming the others."`
	Admin       Admin         `mapstructure:"admin" doc:"Who may use the admin API over HTTPS, besides our own table's admins with their passwords."`
	Memory      Size          `mapstructure:"memory" doc:"What the mailstore's write buffers and its cache may take of this node's memory, at least 16MiB. Half of it is the cache. Sessions, moves and the program itself come on top. Takes effect at a start." default:"48MiB"`
	Shutdown    time.Duration `mapstructure:"shutdown" doc:"How long a graceful stop may take; afterwards connections are cut." default:"20s"`
	Directories []Directory   `mapstructure:"directories" doc:"Where users come from. Asked in order; the first one that knows the user answers. One that cannot tell ends the search with a temporary failure. Default: our own table alone."`
	Cache       Cache         `mapstructure:"cache" doc:"How long answers of directories are remembered."`
	Stores      []Store       `mapstructure:"stores" doc:"Where mail is kept. Default: our own store alone, under the name home."`
	MoveGroups  []MoveGroup   `mapstructure:"move_groups" doc:"Stores between which users may move. Clients of a group see only the capabilities that all its stores share."`
	Migrate     Migrate       `mapstructure:"migrate" doc:"How users are moved."`
}

// Admin says who may use the admin API by a certificate.
type Admin struct {
	ClientCA string   `mapstructure:"client_ca" doc:"PEM file of the authorities that sign admins' certificates. A client that shows one needs no password. Read again at each reload."`
	Clients  []string `mapstructure:"clients" doc:"Names in certificates (common name, DNS name or mail address) that may. Default: any that the authorities have signed."`
}

// Role is one of a node's jobs.
type Role string

// The roles.
const (
	RoleProxy   Role = "proxy"
	RoleStore   Role = "store"
	RoleIngress Role = "ingress"
	RoleMigrate Role = "migrate"
)

// Listen holds the addresses to listen on.
type Listen struct {
	IMAP        []string `mapstructure:"imap" doc:"IMAP with STARTTLS." default:"127.0.0.1:1143"`
	IMAPS       []string `mapstructure:"imaps" doc:"IMAP with TLS from the first byte." default:"127.0.0.1:1993"`
	POP3        []string `mapstructure:"pop3" doc:"POP3 with STLS." default:"127.0.0.1:1110"`
	POP3S       []string `mapstructure:"pop3s" doc:"POP3 with TLS from the first byte." default:"127.0.0.1:1995"`
	ManageSieve []string `mapstructure:"managesieve" doc:"ManageSieve with STARTTLS, in front of foreign stores; our own has none yet. Off unless named."`
	LMTP        []string `mapstructure:"lmtp" doc:"LMTP: deliveries from trusted mail servers, routed by recipient." default:"127.0.0.1:2424"`
	SMTP        []string `mapstructure:"smtp" doc:"SMTP from the world. Not served by this version: must be empty."`
	Submission  []string `mapstructure:"submission" doc:"Submission with STARTTLS: mail of logged-in users." default:"127.0.0.1:1587"`
	Submissions []string `mapstructure:"submissions" doc:"Submission with TLS from the first byte." default:"127.0.0.1:1465"`
	Admin       []string `mapstructure:"admin" doc:"HTTPS: the admin API, /metrics and /healthz." default:"127.0.0.1:8443"`
	Cluster     []string `mapstructure:"cluster" doc:"Other nodes. Not served by this version: must be empty."`
}

// TLS holds certificates and the rule for clients without TLS.
type TLS struct {
	Certificates   []Certificate  `mapstructure:"certificates" doc:"Certificates to serve, chosen by the name that the client asks for; the first one serves the rest. Read again at each reload. Without any, a self-signed one is made at first start and kept in the data directory."`
	ACME           *ACME          `mapstructure:"acme" doc:"Have certificates made and renewed by an authority. They serve clients that ask for their names, before those of certificates; until they are there, these or the self-signed one do."`
	CleartextLogin CleartextLogin `mapstructure:"cleartext_login" doc:"Who may log in without TLS: loopback, never or always." default:"loopback"`
	ClientCA       string         `mapstructure:"client_ca" doc:"PEM file of the authorities that sign users' certificates. With one, clients may log in by SASL EXTERNAL, at stores with delegated login. Read again at each reload."`
	SessionTickets bool           `mapstructure:"session_tickets" doc:"Clients of the mail proxy that come back are spared a full handshake. The keys of their tickets are kept in memory, sealed with for 12 hours and forgotten after 24." default:"true"`
	ClientUser     string         `mapstructure:"client_user" doc:"Where a certificate names the user: email (the only mail address among its alternative names) or cn (the common name of its subject)." default:"email"`
}

// Tokens says what clients are told of OAuth.
type Tokens struct {
	Claim         string `mapstructure:"claim" doc:"The claim of a token that names the user when the client names none, such as email or preferred_username. It chooses the store, which checks the token for that user. Default: such logins are refused."`
	Scope         string `mapstructure:"scope" doc:"The scope that clients are told to ask for when a token is refused."`
	Configuration string `mapstructure:"configuration" doc:"URL of the issuer's OpenID configuration, told at the same time."`
}

// ACME says how certificates are obtained from an authority.
type ACME struct {
	Names     []string `mapstructure:"names" doc:"Names to have certificates for; each must lead to this node." required:"true"`
	Email     string   `mapstructure:"email" doc:"Where the authority may write to."`
	Directory string   `mapstructure:"directory" doc:"The authority's directory (RFC 8555). The default is Let's Encrypt, whose terms of use you agree to by naming it." default:"https://acme-v02.api.letsencrypt.org/directory"`
	CA        string   `mapstructure:"ca" doc:"PEM file of the authorities that may have signed the certificate of the directory itself. Default: those of the system."`
	Listen    string   `mapstructure:"listen" doc:"Address to answer challenges at, while one runs. Default: every one of this machine."`
	HTTPPort  int      `mapstructure:"http_port" doc:"Port for the challenge by HTTP, which the authority asks at port 80; 0: none." default:"80"`
	TLSPort   int      `mapstructure:"tls_port" doc:"Port for the challenge by TLS (RFC 8737), which the authority asks at port 443; 0: none." default:"443"`
}

// Certificate names the files of one certificate.
type Certificate struct {
	Cert string `mapstructure:"cert" doc:"PEM file with the certificate and its chain." required:"true"`
	Key  string `mapstructure:"key" doc:"PEM file with the private key." required:"true"`
}

// CleartextLogin says who may log in without TLS.
type CleartextLogin string

// The rules.
const (
	CleartextLoopback CleartextLogin = "loopback"
	CleartextNever    CleartextLogin = "never"
	CleartextAlways   CleartextLogin = "always"
)

// Log says what is logged.
type Log struct {
	Level  string `mapstructure:"level" doc:"debug, info, warn or error. Changed by a reload." default:"info"`
	Format string `mapstructure:"format" doc:"text or json." default:"text"`
	// Levels of services; Outputs where records go.
	Levels  map[string]string `mapstructure:"levels" doc:"Other levels for services: imap, pop3, managesieve, lmtp, proxy, submission, directory, store, migrate, placements, cluster, admin, tls. For example {imap: debug, directory: warn}."`
	Outputs []LogOutput       `mapstructure:"outputs" doc:"Where the log goes, one copy to each. Default: standard error alone."`
}

// LogOutput is one place where the log goes.
type LogOutput struct {
	To       string        `mapstructure:"to" doc:"stderr, file or syslog." required:"true"`
	Services []string      `mapstructure:"services" doc:"Only these services, named as under levels. Default: all."`
	Format   string        `mapstructure:"format" doc:"text or json. Default: as log.format."`
	Path     string        `mapstructure:"path" doc:"file: where it is."`
	MaxSize  Size          `mapstructure:"max_size" doc:"file: it is rotated when it is larger, and at midnight in any case." default:"100MiB"`
	Keep     time.Duration `mapstructure:"keep" doc:"file: how long rotated files are kept, in whole days (168h is a week); older ones are deleted at the next rotation. 0s: for ever." default:"0s"`
	Files    int           `mapstructure:"files" doc:"file: how many rotated files are kept; 0: any number." default:"0"`
	Address  string        `mapstructure:"address" doc:"syslog: where RFC 5424 is taken: unix:///dev/log, udp://host:514 or tcp://host:601. What a slow or absent collector does not take is dropped and counted." default:"unix:///dev/log"`
	Facility string        `mapstructure:"facility" doc:"syslog: mail, daemon, user, auth, authpriv or local0 to local7." default:"mail"`
}

// Limits bound what one client may take.
type Limits struct {
	Message      Size          `mapstructure:"message" doc:"Largest message, as a number with a unit (KiB, MiB, GiB)." default:"64MiB"`
	Recipients   int           `mapstructure:"recipients" doc:"Most recipients of one transaction." default:"1000"`
	LoginTimeout time.Duration `mapstructure:"login_timeout" doc:"How long a connection may stay without a login." default:"60s"`
	IdleTimeout  time.Duration `mapstructure:"idle_timeout" doc:"How long a logged-in session may stay silent; RFC 9051 asks for 30 minutes or more." default:"30m"`
	Connections  int           `mapstructure:"connections" doc:"Most connections of clients at a time; one more is told so and closed." default:"20000"`
	PerAddress   int           `mapstructure:"per_address" doc:"Most connections of one IPv4 address or IPv6 /64, loopback apart; 0: any number." default:"0"`
	PerUser      int           `mapstructure:"per_user" doc:"Most sessions of one user on this node; 0: any number." default:"0"`
	FailedLogins int           `mapstructure:"failed_logins" doc:"Most wrong passwords of a user that are checked within an hour; beyond, only the one that was right last is let through. Set it below the number at which the directory locks users out. 0: any number." default:"0"`
}

// Directory is a source of users. Which keys apply depends on the type.
type Directory struct {
	Name         string        `mapstructure:"name" doc:"Name, for logs and explain." required:"true"`
	Type         string        `mapstructure:"type" doc:"local (our own table of users), ldap, ad (Active Directory), file, regex (rules) or http (a script that speaks nginx's auth_http)." required:"true"`
	Store        string        `mapstructure:"store" doc:"The store of users for whom the directory names none. Type local: the store of type local."`
	Servers      []string      `mapstructure:"servers" doc:"ldap: URLs (ldap:// or ldaps://), asked in order, with fail-over and return."`
	StartTLS     bool          `mapstructure:"starttls" doc:"ldap: upgrade ldap:// connections to TLS and refuse servers that cannot." default:"false"`
	CA           string        `mapstructure:"ca" doc:"ldap: PEM file of the authorities that may have signed the servers' certificates. Default: those of the system."`
	BindDN       string        `mapstructure:"bind_dn" doc:"ldap: who searches."`
	BindPassword Secret        `mapstructure:"bind_password" doc:"ldap: the searcher's password."`
	Base         string        `mapstructure:"base" doc:"ldap: where the search begins."`
	Filter       string        `mapstructure:"filter" doc:"ldap: the filter that finds one user; {user} stands for the escaped login name or address, {local} and {domain} for its parts."`
	ListFilter   string        `mapstructure:"list_filter" doc:"ldap: the filter that finds all users. Default: the one above with * for the name."`
	Attributes   Attributes    `mapstructure:"attributes" doc:"ldap: where in an entry things are."`
	Write        *Write        `mapstructure:"write" doc:"ldap: who rewrites a user's store at a flip. Without it the placement alone routes moved users."`
	Path         string        `mapstructure:"path" doc:"file: one user a line, as written in docs/operations.md; read again when it changes."`
	Format       string        `mapstructure:"format" doc:"file: popmap, for lines key:[user@]host[:port] as Perdition has them; the store is then called host, or host:port. Default: by the file's name."`
	Writable     bool          `mapstructure:"writable" doc:"file: a flip rewrites the user's store there." default:"false"`
	Domain       string        `mapstructure:"domain" doc:"ad: the name in DOMAIN\\name. Default: what the domain says."`
	Realm        string        `mapstructure:"realm" doc:"ad: the DNS name of the domain, for name@realm. Default: what the domain says."`
	Groups       []string      `mapstructure:"groups" doc:"ad: DNs of groups; users are those who are in one of them, directly or through other groups. Default: everybody."`
	Referrals    string        `mapstructure:"referrals" doc:"ldap, ad: ignore, or follow (other servers that an answer names are asked, too, by the same identity and with no less TLS)." default:"ignore"`
	Replica      *Replica      `mapstructure:"replica" doc:"ldap, ad: a copy of all users' routes, kept current and on disk: all known users can log in while the directory is away. An empty section, replica: {}, switches it on."`
	Remember     time.Duration `mapstructure:"remember_passwords" doc:"ldap, ad: how long a password that the directory accepted counts while it is away; its argon2id hash is kept in memory alone. 0s: not at all." default:"0s"`
	URL          string        `mapstructure:"url" doc:"http: the address that is asked, http:// or https://. It is asked without a password (Auth-Method: none), then with one."`
	Header       string        `mapstructure:"header" doc:"http: a header to send along, as nginx's auth_http_header."`
	HeaderValue  Secret        `mapstructure:"header_value" doc:"http: its value."`
	Rules        []Rule        `mapstructure:"rules" doc:"regex: the first rule that matches the name decides."`
	Names        *Names        `mapstructure:"names" doc:"By which names the directory is asked, and with which one the user logs in to the store. Default: the name as given, and the directory's."`
	Passwords    string        `mapstructure:"passwords" doc:"Who checks passwords: bind (the directory) or pass (the store). Default: bind for ldap and local, for file the directory where it has a hash."`
	Timeout      time.Duration `mapstructure:"timeout" doc:"ldap: limit of one request." default:"3s"`
	Connections  int           `mapstructure:"connections" doc:"ldap: connections kept to a server." default:"8"`
}

// Rule routes names that match a pattern.
type Rule struct {
	Match string `mapstructure:"match" doc:"Regular expression (RE2) for the whole name." required:"true"`
	User  string `mapstructure:"user" doc:"The user's canonical name; ${1} is the first group, $$ a dollar. Default: the name as it is."`
	Store string `mapstructure:"store" doc:"The user's store, by name or address, with groups as above. Default: the store of the directory."`
}

// Replica says how a copy of a directory is kept.
type Replica struct {
	Feed     string        `mapstructure:"feed" doc:"How changes are learned: syncrepl (OpenLDAP pushes them), dirsync (Active Directory), poll (by modifyTimestamp or whenChanged), or auto: the best that the server offers." default:"auto"`
	Poll     time.Duration `mapstructure:"poll" doc:"How often changes are asked for. 0s: 2 s for dirsync, 30 s for poll; for syncrepl, 15 s between looks whether the server lives." default:"0s"`
	Full     time.Duration `mapstructure:"full" doc:"How often everything is read anew. 0s: hourly for poll, which sees only so what was deleted, else daily." default:"0s"`
	Stale    time.Duration `mapstructure:"stale" doc:"How long the copy serves while the directory is away." default:"168h"`
	MaxUsers int           `mapstructure:"max_users" doc:"Most users that are kept, at about 250 bytes each; a directory with more has no copy." default:"2000000"`
}

// Cache says how long answers of directories are remembered.
type Cache struct {
	For    time.Duration `mapstructure:"for" doc:"How long an answer serves without asking again." default:"10m"`
	Misses time.Duration `mapstructure:"misses" doc:"How long an unknown name stays unknown." default:"30s"`
	Stale  time.Duration `mapstructure:"stale" doc:"How long an old answer serves while the directory is away." default:"24h"`
}

// Attributes names LDAP attributes.
type Attributes struct {
	User       string `mapstructure:"user" doc:"The canonical name of the user. ad: userPrincipalName by default." default:"uid"`
	Store      string `mapstructure:"store" doc:"The user's store: the name or the address of a configured one." default:"mailHost"`
	Recipients string `mapstructure:"recipients" doc:"Further addresses of the user. ad: proxyAddresses by default."`
	Host       string `mapstructure:"host" doc:"The address to dial, when the store serves any host; without a store it takes that place."`
	Port       string `mapstructure:"port" doc:"The port to dial: 1143 is IMAP's; pop3:1110 another protocol's."`
	Quota      string `mapstructure:"quota" doc:"The user's quota in bytes, or with a unit such as 500M or 2GiB."`
	Services   string `mapstructure:"services" doc:"Protocols that the user may use: imap, pop3, managesieve, smtp, all, none. A user without the attribute may use all."`
	Disabled   string `mapstructure:"disabled" doc:"An attribute that is TRUE for users who may not log in."`
}

// Write holds the credentials of the one who rewrites stores.
type Write struct {
	BindDN   string `mapstructure:"bind_dn" doc:"Who writes." required:"true"`
	Password Secret `mapstructure:"password" doc:"The writer's password."`
}

// Store is a place of mail.
type Store struct {
	Name        string            `mapstructure:"name" doc:"Name, as routes, directories and commands give it." required:"true"`
	Type        backend.StoreType `mapstructure:"type" doc:"local (our own), or the profile of a foreign store: cyrus, dovecot, courier, axigen, exchange, gmail, generic." required:"true"`
	Address     string            `mapstructure:"address" doc:"Host name or IP address. Without one the store serves any host that a directory names."`
	Ports       map[string]int    `mapstructure:"ports" doc:"Ports by protocol (imap, pop3, managesieve, lmtp). Default: those of the protocols."`
	TLS         backend.TLSMode   `mapstructure:"tls" doc:"starttls, implicit or none. A store that does not offer what is asked for is refused." default:"starttls"`
	LMTPTLS     backend.TLSMode   `mapstructure:"lmtp_tls" doc:"The same for deliveries by LMTP, which Cyrus takes without TLS inside a trusted network. Default: as tls."`
	CA          string            `mapstructure:"ca" doc:"PEM file of the authorities that may have signed the store's certificate. Default: those of the system."`
	TLSName     string            `mapstructure:"tls_name" doc:"The name in the store's certificate, when it is not the address."`
	Login       Login             `mapstructure:"login" doc:"How to log in for a user. Our own store needs none."`
	Identity    backend.Identity  `mapstructure:"identity" doc:"How the store is told the client's address: none, native (ID in IMAP, XCLIENT in POP3 and ManageSieve, where Dovecot's login_trusted_networks names us) or proxy (a PROXY v2 header before everything)." default:"none"`
	Compress    backend.Compress  `mapstructure:"compress" doc:"When a migration asks this store to compress (COMPRESS=DEFLATE): auto (when it is far away and the line is slow), always or never." default:"auto"`
	Connections int               `mapstructure:"connections" doc:"Most connections of all migrations to one host of this store. With 1 or 2 the check of a removal may open one more." default:"8"`
	Logins      int               `mapstructure:"logins_per_second" doc:"Most logins of all migrations to one host of this store, per second; 0: no limit." default:"0"`
	Bandwidth   Size              `mapstructure:"bandwidth" doc:"Most bytes that all migrations read from one host of this store, per second; 0B: no limit." default:"0B"`
	Tokens      bool              `mapstructure:"tokens" doc:"The store checks OAuth tokens of users (OAUTHBEARER or XOAUTH2, whichever it offers)." default:"false"`
	Alternates  []string          `mapstructure:"alternates" doc:"More addresses of the same store, tried in this order while the first is away; it is returned to by itself."`
	Sessions    int               `mapstructure:"sessions" doc:"Most sessions of clients on each address of this store. A login beyond waits some seconds for a place, then it is told to come back later. 0: any number." default:"0"`
}

// Login says how to log in to a store for a user.
type Login struct {
	Mode      backend.LoginMode `mapstructure:"mode" doc:"user (the user's own name and password), authzid (an admin by SASL PLAIN with an authorisation identity), master (user*master names, Dovecot), proxyauth (the command PROXYAUTH behind an admin's login, IMAP only: Netscape, Sun, Oracle) or oauth (a token of ours under the user's name: Exchange Online, Google)." default:"user"`
	User      string            `mapstructure:"user" doc:"The admin's name."`
	Password  Secret            `mapstructure:"password" doc:"The admin's password."`
	Separator string            `mapstructure:"separator" doc:"master: what stands between the names." default:"*"`
	Capture   time.Duration     `mapstructure:"capture" doc:"user: your consent that a user's password is taken from their login to this store for their move, and how long it may be kept: sealed, in memory alone, until the user has moved or this time is over (24h). Only users of a move that is ordered are concerned; each capture is logged, without the password. 0s: never." default:"0s"`
	OAuth     OAuth             `mapstructure:"oauth" doc:"oauth: where tokens come from. One of token_url with client_id and client_secret, token_file, and service_account."`
}

// OAuth says where tokens of a store come from.
type OAuth struct {
	TokenURL       string   `mapstructure:"token_url" doc:"Where client credentials are exchanged for tokens (RFC 6749, 4.4), https://. Exchange Online: https://login.microsoftonline.com/TENANT/oauth2/v2.0/token."`
	ClientID       string   `mapstructure:"client_id" doc:"Name of the application."`
	ClientSecret   Secret   `mapstructure:"client_secret" doc:"The application's secret."`
	Scopes         []string `mapstructure:"scopes" doc:"What is asked for. Exchange Online: https://outlook.office365.com/.default; Google: https://mail.google.com/."`
	TokenFile      string   `mapstructure:"token_file" doc:"File with a token that another program keeps fresh; read again when it changes."`
	ServiceAccount string   `mapstructure:"service_account" doc:"Key file (JSON) of a Google service account with domain-wide delegation: a token is made for each user."`
	CA             string   `mapstructure:"ca" doc:"PEM file of the authorities that may have signed the certificate of token_url. Default: those of the system."`
}

// MoveGroup names stores between which users may move.
type MoveGroup struct {
	Name   string   `mapstructure:"name" doc:"Name, for logs." required:"true"`
	Stores []string `mapstructure:"stores" doc:"Names of stores." required:"true"`
}

// Migrate says how users are moved.
type Migrate struct {
	Parallel    int           `mapstructure:"parallel" doc:"Users copied at a time, unless a command says otherwise." default:"4"`
	Holds       int           `mapstructure:"holds" doc:"Users on hold at a time; more of stores that are far away, as their holds wait for the line." default:"2"`
	HoldLimit   time.Duration `mapstructure:"hold_limit" doc:"Longest hold; a longer one is taken back and tried again." default:"5s"`
	ConfirmTime time.Duration `mapstructure:"confirm_limit" doc:"How long proxies may take to confirm a hold." default:"3s"`
	POP3        string        `mapstructure:"pop3" doc:"Whose POP3 unique ids and order are carried over: auto (whom the directory allows POP3, where the old store takes the login), always (an old store that cannot be asked fails the move) or never." default:"auto"`
	Soak        time.Duration `mapstructure:"soak" doc:"How long the old store follows the new one behind a flip, so that users can be rolled back exactly, unless a command says otherwise (--soak 7d). 0s: not at all, the old store is left as it was." default:"0s"`
	SoakPoll    time.Duration `mapstructure:"soak_interval" doc:"How often both stores of a soaking user are looked at." default:"1m"`
	Hooks       []Hook        `mapstructure:"hooks" doc:"Who is told when the state of a user's move changes."`
}

// Hook is told of moves.
type Hook struct {
	Name    string        `mapstructure:"name" doc:"Name, for logs, metrics and --hook." required:"true"`
	Command []string      `mapstructure:"command" doc:"A program and its arguments, run without a shell: the event comes as JSON on its standard input and in MAILFERRY_USER, MAILFERRY_STATE, MAILFERRY_WAS, MAILFERRY_BATCH, MAILFERRY_FROM, MAILFERRY_TO and MAILFERRY_REASON."`
	URL     string        `mapstructure:"url" doc:"In place of a command: an address that gets the event as JSON by POST."`
	Secret  Secret        `mapstructure:"secret" doc:"Signs what is posted: X-Mailferry-Signature is sha256= and the HMAC-SHA256, in hexadecimal, of X-Mailferry-Timestamp, a dot and the body."`
	States  []string      `mapstructure:"states" doc:"States to tell of, such as final and failed. Default: all."`
	Named   bool          `mapstructure:"named" doc:"Only for batches that name it with --hook." default:"false"`
	Timeout time.Duration `mapstructure:"timeout" doc:"Limit of one attempt; there are five, with growing pauses." default:"10s"`
}

// Secret is a password in a configuration: it hides itself.
type Secret = backend.Secret

// HasRole reports whether the node has role r.
func (c *Config) HasRole(r Role) bool {
	for _, have := range c.Roles {
		if have == r {
			return true
		}
	}
	return false
}

// HasDirectory reports whether a directory of this type is configured.
func (c *Config) HasDirectory(kind string) bool {
	for i := range c.Directories {
		if c.Directories[i].Type == kind {
			return true
		}
	}
	return false
}

// LocalStore is our own store, nil when none is configured.
func (c *Config) LocalStore() *Store {
	for i := range c.Stores {
		if c.Stores[i].Type == backend.StoreLocal {
			return &c.Stores[i]
		}
	}
	return nil
}
