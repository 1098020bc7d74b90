package directory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/hashicorp/golang-lru/v2/simplelru"

	"mailferry/backend"
)

// ADOptions configure one Active Directory.
type ADOptions struct {
	// LDAPOptions are those of the connection and the attributes. Filter, when
	// there is one, restricts who is a user and may not name {user}. Attributes.User defaults to
	// userPrincipalName, Attributes.Recipients to proxyAddresses.
	LDAPOptions
	// Domain is the NetBIOS name in DOMAIN\name, Realm the DNS name in
	// name@realm; empty: what the domain says of itself.
	Domain, Realm string
	// Groups are DNs; a user must be in one of them, directly or through other
	// groups. Empty: all users.
	Groups []string
}

// matchInChain walks through nested groups (LDAP_MATCHING_RULE_IN_CHAIN).
const matchInChain = "1.2.840.113556.1.4.1941"

// oidAD is the capability by which Active Directory is known; other servers
// take matchInChain for a filter that fits nobody.
const oidAD = "1.2.840.113556.1.4.800"

// usersOnly leaves out computers and contacts.
const usersOnly = "(objectCategory=person)(objectClass=user)"

// NewAD checks the options; it does not connect. Names are found by their
// form: DOMAIN\name is a sAMAccountName; a name with "@" is a
// userPrincipalName, mail, any of proxyAddresses, or name@realm; any other is a
// sAMAccountName, which must be unique below the base. Names that fit two
// entries are refused.
func NewAD(o ADOptions) (*LDAP, error) {
	o.Attributes.User = cmp.Or(o.Attributes.User, "userPrincipalName")
	o.Attributes.Recipients = cmp.Or(o.Attributes.Recipients, "proxyAddresses")
	for _, placeholder := range []string{"{user}", "{local}", "{domain}"} {
		if strings.Contains(o.Filter, placeholder) {
			return nil, backend.Errorf(backend.KindInvalid, "", "directory %s: the filter of type ad restricts users and cannot contain %s", o.Name, placeholder)
		}
	}
	a := &activeDirectory{domain: o.Domain, realm: o.Realm}
	a.locked, _ = simplelru.NewLRU[string, time.Time](10_000, nil) // fails for size <= 0 only
	a.users = usersOnly
	if o.Filter != "" {
		a.users += parenthesised(o.Filter)
	}
	groups := ""
	for _, g := range o.Groups {
		if _, err := ldap.ParseDN(g); err != nil || g == "" {
			return nil, backend.Errorf(backend.KindInvalid, "", "directory %s: group %q is not a DN", o.Name, g)
		}
		groups += fmt.Sprintf("(memberOf:%s:=%s)", matchInChain, ldap.EscapeFilter(g))
	}
	if groups != "" {
		a.users += "(|" + groups + ")"
	}
	a.grouped = groups != ""
	o.Filter = "(&" + a.users + "(|(sAMAccountName={user})(userPrincipalName={user})))" // its check, and nothing else
	o.ListFilter = cmp.Or(o.ListFilter, "(&"+a.users+"(sAMAccountName=*))")
	d, err := NewLDAP(o.LDAPOptions)
	if err != nil {
		return nil, err
	}
	a.d, d.form = d, a
	return d, nil
}

// activeDirectory is the form of Active Directory, and what it learned of the
// domain.
type activeDirectory struct {
	d       *LDAP
	users   string // filters that every user passes
	grouped bool

	mu            sync.Mutex
	domain, realm string
	known         bool
	locked        *simplelru.LRU[string, time.Time] // DN -> when no bind is tried any more
}

// find implements form.
func (a *activeDirectory) find(ctx context.Context, name string) (filter string, none bool, err error) {
	domain, realm, err := a.identity(ctx)
	if err != nil {
		return "", false, err
	}
	names := ""
	if before, sam, ok := strings.Cut(name, `\`); ok {
		if !strings.EqualFold(before, domain) && !strings.EqualFold(before, realm) || sam == "" {
			return "", true, nil
		}
		names = equal("sAMAccountName", sam)
	} else if local, suffix := splitName(name); suffix != "" {
		names = equal("userPrincipalName", name) + equal("mail", name) + equal("proxyAddresses", "smtp:"+name)
		if strings.EqualFold(suffix, realm) {
			names += equal("sAMAccountName", local)
		}
	} else {
		names = equal("sAMAccountName", name)
	}
	return "(&" + a.users + "(|" + names + "))", false, nil
}

func equal(attr, value string) string { return "(" + attr + "=" + ldap.EscapeFilter(value) + ")" }

func (a *activeDirectory) tested() []string {
	return []string{"samaccountname", "userprincipalname", "mail", "proxyaddresses"}
}

func (a *activeDirectory) further() []string {
	return []string{"userAccountControl", "accountExpires"}
}

// identity learns the domain's names from the first server that answers. It
// also makes sure that this is Active Directory.
func (a *activeDirectory) identity(ctx context.Context) (domain, realm string, err error) {
	if domain, realm, ok := a.recall(); ok {
		return domain, realm, nil
	}
	err = a.d.try(ctx, searchIdentity, func(c *ldap.Conn) error {
		domain, realm, err = askIdentity(c)
		return err
	})
	if err != nil {
		return "", "", err
	}
	a.learn(domain, realm)
	domain, realm, _ = a.recall()
	a.d.log.Info("Active Directory", "domain", domain, "realm", realm)
	return domain, realm, nil
}

func (a *activeDirectory) recall() (domain, realm string, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.domain, a.realm, a.known
}

// learn notes the domain's names, where the configuration gives no others.
func (a *activeDirectory) learn(domain, realm string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.known {
		a.domain, a.realm, a.known = cmp.Or(a.domain, domain), cmp.Or(a.realm, realm), true
	}
}

// errNotAD: groups and account states would silently mean nothing.
var errNotAD = errors.New("the server is not Active Directory: use type ldap")

func askIdentity(c *ldap.Conn) (domain, realm string, err error) {
	root, err := rootDSE(c, "supportedCapabilities", "defaultNamingContext", "configurationNamingContext")
	if err != nil {
		return "", "", err
	}
	if !hasValue(root, "supportedCapabilities", oidAD) {
		return "", "", errNotAD
	}
	res, err := c.Search(&ldap.SearchRequest{
		BaseDN: "CN=Partitions," + root.GetAttributeValue("configurationNamingContext"), Scope: ldap.ScopeSingleLevel, SizeLimit: 2,
		Filter:     "(&(objectClass=crossRef)(nETBIOSName=*)(nCName=" + ldap.EscapeFilter(root.GetAttributeValue("defaultNamingContext")) + "))",
		Attributes: []string{"nETBIOSName", "dnsRoot"}})
	if err != nil {
		return "", "", fmt.Errorf("partitions: %w", err)
	}
	if len(res.Entries) == 1 {
		domain, realm = res.Entries[0].GetAttributeValue("nETBIOSName"), res.Entries[0].GetAttributeValue("dnsRoot")
	}
	return domain, realm, nil
}

// rootDSE reads what a server says of itself (RFC 4512, 5.1).
func rootDSE(c *ldap.Conn, attributes ...string) (*ldap.Entry, error) {
	res, err := c.Search(ldap.NewSearchRequest("", ldap.ScopeBaseObject, ldap.NeverDerefAliases, 1, 3, false, "(objectClass=*)", attributes, nil))
	if err != nil {
		return nil, fmt.Errorf("rootDSE: %w", err)
	}
	if len(res.Entries) != 1 {
		return nil, errors.New("rootDSE: the server hides it")
	}
	return res.Entries[0], nil
}

func hasValue(in *ldap.Entry, attr, value string) bool {
	for _, v := range in.GetEqualFoldAttributeValues(attr) {
		if strings.EqualFold(v, value) {
			return true
		}
	}
	return false
}

// accountDisabled is the flag of userAccountControl.
const accountDisabled = 0x2

// refine locks out disabled and expired accounts, which matters where the
// store checks passwords.
func (a *activeDirectory) refine(in *ldap.Entry, e *backend.Entry) {
	flags, _ := strconv.ParseInt(in.GetEqualFoldAttributeValue("userAccountControl"), 10, 64)
	expires, _ := strconv.ParseInt(in.GetEqualFoldAttributeValue("accountExpires"), 10, 64)
	switch {
	case flags&accountDisabled != 0:
		e.Disabled, e.Reason = true, StateDisabled.String()
	case expires > 0 && expires < 1<<62 && fileTime(expires).Before(a.d.o.Now()):
		e.Disabled, e.Reason = true, StateAccountExpired.String()
	}
}

// fileTime converts 100 ns since 1601.
func fileTime(n int64) time.Time {
	const toUnix = 11644473600
	return time.Unix(n/1e7-toUnix, n%1e7*100)
}
