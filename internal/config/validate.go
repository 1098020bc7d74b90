package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"mailferry/backend"
)

// Types of directories, and who checks passwords.
const (
	DirectoryLocal = "local"
	DirectoryLDAP  = "ldap"
	DirectoryFile  = "file"
	DirectoryRegex = "regex"
	DirectoryAD    = "ad"
	DirectoryHTTP  = "http"

	ReferralsIgnore = "ignore"
	ReferralsFollow = "follow"

	PasswordsBind = "bind"
	PasswordsPass = "pass"
)

var (
	roles          = []Role{RoleProxy, RoleStore, RoleIngress, RoleMigrate}
	directoryTypes = []string{DirectoryLocal, DirectoryLDAP, DirectoryAD, DirectoryFile, DirectoryRegex, DirectoryHTTP}
	storeTypes     = []backend.StoreType{backend.StoreLocal, backend.StoreCyrus, backend.StoreDovecot, backend.StoreCourier,
		backend.StoreAxigen, backend.StoreExchange, backend.StoreGmail, backend.StoreGeneric}
	tlsModes   = []backend.TLSMode{backend.TLSStartTLS, backend.TLSImplicit, backend.TLSNone}
	loginModes = []backend.LoginMode{backend.LoginUser, backend.LoginAuthzid, backend.LoginMaster,
		backend.LoginProxyAuth, backend.LoginOAuth}
	cleartextWays = []CleartextLogin{CleartextLoopback, CleartextNever, CleartextAlways}
	protocols     = []string{"imap", "pop3", "managesieve", "lmtp"}
	notServed     = []string{"smtp", "cluster"}
)

// validate reports everything that is wrong with single values and with how
// they relate.
func validate(c *Config, r *report) {
	checkRequired(reflect.ValueOf(c).Elem(), "", r)
	for i, role := range c.Roles {
		oneOf(r, fmt.Sprintf("roles[%d]", i), role, roles)
	}
	if len(c.Roles) == 0 {
		r.add("roles", "needs at least one of %s", words(roles))
	}
	checkListen(c, r)
	oneOf(r, "tls.cleartext_login", c.TLS.CleartextLogin, cleartextWays)
	checkCredentials(c, r)
	oneOf(r, "migrate.pop3", c.Migrate.POP3, []string{"auto", "always", "never"})
	oneOf(r, "log.level", c.Log.Level, []string{"debug", "info", "warn", "error"})
	checkLog(&c.Log, r)
	checkACME(c.TLS.ACME, r)
	checkNumbers(c, r)
	for i, n := range c.Balancers {
		if _, err := netip.ParsePrefix(n); err != nil {
			r.add(fmt.Sprintf("balancers[%d]", i), "%q is not a network: write 10.0.0.0/8 or 2001:db8::/32", n)
		}
	}
	if len(c.Stores) == 0 {
		r.add("stores", "needs at least one store")
	}
	if len(c.Directories) == 0 {
		r.add("directories", "needs at least one directory")
	}
	for i := range c.Stores {
		checkStore(c, i, r)
	}
	for i := range c.Directories {
		checkDirectory(c, i, r)
	}
	checkNames(c, r)
	checkMoveGroups(c, r)
	checkHooks(c, r)
}

// checkRequired reports required fields that are empty.
func checkRequired(v reflect.Value, path string, r *report) {
	for _, f := range fieldsOf(v.Type()) {
		key, fv := join(path, f.key), v.Field(f.index)
		switch {
		case f.required && fv.IsZero():
			r.add(key, "is required")
		case f.typ.Kind() == reflect.Struct:
			checkRequired(fv, key, r)
		case f.typ.Kind() == reflect.Pointer && !fv.IsNil():
			checkRequired(fv.Elem(), key, r)
		case f.typ.Kind() == reflect.Slice && f.typ.Elem().Kind() == reflect.Struct:
			for i := range fv.Len() {
				checkRequired(fv.Index(i), fmt.Sprintf("%s[%d]", key, i), r)
			}
		}
	}
}

func checkListen(c *Config, r *report) {
	v := reflect.ValueOf(c.Listen)
	taken := map[string]string{}
	for _, f := range fieldsOf(v.Type()) {
		for i, addr := range v.Field(f.index).Interface().([]string) {
			key := fmt.Sprintf("listen.%s[%d]", f.key, i)
			if slices.Contains(notServed, f.key) {
				r.add(key, "%s is not served by this version", f.key)
				continue
			}
			_, port, err := net.SplitHostPort(addr)
			if err != nil {
				r.add(key, "%q is not an address: write host:port or :port", addr)
				continue
			}
			if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
				r.add(key, "%q is not a port", port)
				continue
			}
			if other, ok := taken[addr]; ok && port != "0" {
				r.add(key, "%s is taken by %s", addr, other)
			}
			taken[addr] = "listen." + f.key
		}
	}
}

// minMemory is the least with which the mailstore's log is not flushed all the time.
const minMemory Size = 16 << 20

func checkNumbers(c *Config, r *report) {
	for key, n := range map[string]int64{"limits.message": int64(c.Limits.Message), "limits.recipients": int64(c.Limits.Recipients),
		"limits.login_timeout": int64(c.Limits.LoginTimeout), "limits.idle_timeout": int64(c.Limits.IdleTimeout),
		"limits.connections": int64(c.Limits.Connections), "shutdown": int64(c.Shutdown), "migrate.parallel": int64(c.Migrate.Parallel),
		"migrate.holds": int64(c.Migrate.Holds), "migrate.hold_limit": int64(c.Migrate.HoldLimit),
		"migrate.confirm_limit": int64(c.Migrate.ConfirmTime)} {
		if n <= 0 {
			r.add(key, "must be above zero")
		}
	}
	if c.Memory < minMemory {
		r.add("memory", "must be at least %s", minMemory)
	}
	if c.Migrate.ConfirmTime > c.Migrate.HoldLimit {
		r.add("migrate.confirm_limit", "is longer than migrate.hold_limit (%s)", c.Migrate.HoldLimit)
	}
	if c.Limits.IdleTimeout < c.Limits.LoginTimeout {
		r.add("limits.idle_timeout", "is shorter than limits.login_timeout (%s)", c.Limits.LoginTimeout)
	}
}

func checkStore(c *Config, i int, r *report) {
	s, key := &c.Stores[i], fmt.Sprintf("stores[%d]", i)
	if s.Type == "" {
		return
	}
	oneOf(r, key+".type", s.Type, storeTypes)
	oneOf(r, key+".tls", s.TLS, tlsModes)
	if s.LMTPTLS != "" {
		oneOf(r, key+".lmtp_tls", s.LMTPTLS, tlsModes)
	}
	oneOf(r, key+".login.mode", s.Login.Mode, loginModes)
	oneOf(r, key+".compress", s.Compress, []backend.Compress{backend.CompressAuto, backend.CompressAlways, backend.CompressNever})
	oneOf(r, key+".identity", s.Identity, []backend.Identity{backend.IdentityNone, backend.IdentityNative, backend.IdentityProxy})
	for protocol, port := range s.Ports {
		oneOf(r, key+".ports."+protocol, protocol, protocols)
		if port < 1 || port > 65535 {
			r.add(key+".ports."+protocol, "%d is not a port", port)
		}
	}
	if s.Type == backend.StoreLocal {
		checkLocalStore(c, i, r)
		return
	}
	checkLogin(&s.Login, key+".login", r)
	checkAlternates(s, key, r)
	if s.Connections < 1 {
		r.add(key+".connections", "must be above zero")
	}
	if s.Logins < 0 {
		r.add(key+".logins_per_second", "is below zero")
	}
}

func checkLocalStore(c *Config, i int, r *report) {
	s, key := &c.Stores[i], fmt.Sprintf("stores[%d]", i)
	if s.Address != "" || len(s.Ports) > 0 {
		r.add(key, "a store of type local has neither address nor ports")
	}
	if s.Tokens {
		r.add(key+".tokens", "our own store cannot check tokens")
	}
	if len(s.Alternates) > 0 || s.Sessions != 0 {
		r.add(key, "a store of type local has neither alternates nor a bound of sessions")
	}
	if !c.HasRole(RoleStore) {
		r.add(key, "a store of type local needs the role store on this node")
	}
	if c.LocalStore() != s {
		r.add(key, "only one store of type local is possible")
	}
}

func checkDirectory(c *Config, i int, r *report) {
	d, key := &c.Directories[i], fmt.Sprintf("directories[%d]", i)
	if d.Type == "" {
		return
	}
	oneOf(r, key+".type", d.Type, directoryTypes)
	if d.Store != "" && !slices.ContainsFunc(c.Stores, func(s Store) bool { return s.Name == d.Store }) {
		r.add(key+".store", "there is no store %q; stores are %s", d.Store, words(storeNames(c)))
	}
	if d.Passwords != "" {
		oneOf(r, key+".passwords", d.Passwords, []string{PasswordsBind, PasswordsPass})
	}
	checkNameRules(d, key, r)
	switch d.Type {
	case DirectoryLocal:
		if c.LocalStore() == nil {
			r.add(key, "a directory of type local needs a store of type local")
		}
	case DirectoryFile:
		if d.Path == "" {
			r.add(key+".path", "is required for type file")
		}
	case DirectoryLDAP, DirectoryAD:
		checkLDAP(d, key, r)
	case DirectoryHTTP:
		if u, err := url.Parse(d.URL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			r.add(key+".url", "%q is not an address: write http://host/path or https://host/path", d.URL)
		}
	}
}

func checkLDAP(d *Directory, key string, r *report) {
	if len(d.Servers) == 0 {
		r.add(key+".servers", "is required for type %s", d.Type)
	}
	for i, s := range d.Servers {
		if u, err := url.Parse(s); err != nil || u.Host == "" || u.Scheme != "ldap" && u.Scheme != "ldaps" {
			r.add(fmt.Sprintf("%s.servers[%d]", key, i), "%q is not an address: write ldap://host or ldaps://host", s)
		}
	}
	if d.Base == "" {
		r.add(key+".base", "is required for type %s", d.Type)
	}
	named := strings.Contains(d.Filter, "{user}") || strings.Contains(d.Filter, "{local}")
	switch {
	case d.Type == DirectoryAD && named:
		r.add(key+".filter", "cannot contain a name: type ad knows how names are found, a filter only restricts who is a user")
	case d.Type == DirectoryLDAP && !named:
		r.add(key+".filter", "must contain {user}, which stands for the name that is looked for")
	}
	if d.Timeout < 10*time.Millisecond {
		r.add(key+".timeout", "%s is too short to reach any server", d.Timeout)
	}
	if d.Connections < 1 {
		r.add(key+".connections", "must be above zero")
	}
	oneOf(r, key+".referrals", d.Referrals, []string{ReferralsIgnore, ReferralsFollow})
	if d.Replica != nil {
		oneOf(r, key+".replica.feed", d.Replica.Feed, []string{"auto", "syncrepl", "dirsync", "poll"})
		if d.Replica.MaxUsers < 1 {
			r.add(key+".replica.max_users", "must be above zero")
		}
	}
}

func checkNames(c *Config, r *report) {
	seen := map[string]bool{}
	for i, s := range c.Stores {
		if s.Name != "" && seen["s"+s.Name] {
			r.add(fmt.Sprintf("stores[%d].name", i), "%q is taken", s.Name)
		}
		seen["s"+s.Name] = true
	}
	for i, d := range c.Directories {
		if d.Name != "" && seen["d"+d.Name] {
			r.add(fmt.Sprintf("directories[%d].name", i), "%q is taken", d.Name)
		}
		seen["d"+d.Name] = true
	}
}

func checkMoveGroups(c *Config, r *report) {
	member := map[string]string{}
	for i, g := range c.MoveGroups {
		for j, name := range g.Stores {
			key := fmt.Sprintf("move_groups[%d].stores[%d]", i, j)
			if !slices.Contains(storeNames(c), name) {
				r.add(key, "there is no store %q; stores are %s", name, words(storeNames(c)))
			}
			if other, ok := member[name]; ok {
				r.add(key, "%s is in the group %s already", name, other)
			}
			member[name] = g.Name
		}
		if len(g.Stores) == 1 {
			r.add(fmt.Sprintf("move_groups[%d].stores", i), "a group needs two stores or more")
		}
	}
}

// moveStates are those that hooks may name.
var moveStates = []string{"listed", "checked", "copying", "following", "ready", "holding", "flipped", "soaking", "final", "failed",
	"paused", "rolled back", "waiting for login"}

func checkHooks(c *Config, r *report) {
	seen := map[string]bool{}
	for i, h := range c.Migrate.Hooks {
		key := fmt.Sprintf("migrate.hooks[%d]", i)
		if h.Name != "" && seen[h.Name] {
			r.add(key+".name", "%q is taken", h.Name)
		}
		seen[h.Name] = true
		if (len(h.Command) > 0) == (h.URL != "") {
			r.add(key, "needs either a command or a url")
		}
		if u, err := url.Parse(h.URL); h.URL != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
			r.add(key+".url", "is not an address: write http://host/path or https://host/path")
		}
		if h.Secret != "" && h.URL == "" {
			r.add(key+".secret", "signs what is posted: it goes with a url")
		}
		for j, s := range h.States {
			oneOf(r, fmt.Sprintf("%s.states[%d]", key, j), s, moveStates)
		}
	}
}

func storeNames(c *Config) []string {
	var names []string
	for _, s := range c.Stores {
		names = append(names, s.Name)
	}
	return names
}

func oneOf[T ~string](r *report, key string, value T, allowed []T) {
	if slices.Contains(allowed, value) {
		return
	}
	text := fmt.Sprintf("%q is none of %s", value, words(allowed))
	var names []string
	for _, a := range allowed {
		names = append(names, string(a))
	}
	if near := nearest(string(value), names); near != "" {
		text += fmt.Sprintf("; did you mean %q?", near)
	}
	r.add(key, "%s", text)
}

func words[T ~string](list []T) string {
	var b strings.Builder
	for i, w := range list {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(string(w))
	}
	return b.String()
}

func checkACME(a *ACME, r *report) {
	if a == nil {
		return
	}
	for i, n := range a.Names {
		if strings.ContainsAny(n, "*/: ") || !strings.Contains(n, ".") {
			r.add(fmt.Sprintf("tls.acme.names[%d]", i), "%q is not the name of a host; wildcards cannot be had by these challenges", n)
		}
	}
	if u, err := url.Parse(a.Directory); err != nil || u.Scheme != "https" || u.Host == "" {
		r.add("tls.acme.directory", "%q is not an address: write https://host/directory", a.Directory)
	}
	if a.HTTPPort == 0 && a.TLSPort == 0 {
		r.add("tls.acme", "http_port and tls_port cannot both be 0: no challenge is left")
	}
	for key, n := range map[string]int{"http_port": a.HTTPPort, "tls_port": a.TLSPort} {
		if n < 0 || n > 65535 {
			r.add("tls.acme."+key, "%d is not a port", n)
		}
	}
}
