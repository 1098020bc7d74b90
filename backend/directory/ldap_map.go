package directory

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"mailferry/backend"
)

// LDAPAttributes map an LDAP entry to ours. An empty name: there is no such
// attribute.
type LDAPAttributes struct {
	User     string // canonical name, exactly one value; default "uid"
	Store    string // store name or address, at most one value; default "mailHost"
	Disabled string // a true value (TRUE, yes, 1, disabled) locks the user out
	// Recipients is a multi-valued attribute with further addresses; a prefix
	// smtp: is cut off, values with another prefix are left out.
	Recipients string
	// Host is the address to dial, at most one value. Without a value of Store
	// it takes that place.
	Host string
	// Port has values such as "1143", for IMAP, or "pop3:1110".
	Port string
	// Quota is in bytes, or with a unit such as K, MB or GiB (powers of 1,024).
	Quota string
	// Services lists the protocols that the user may use: imap, pop3,
	// managesieve (or sieve), smtp (or submission), all, none, in any number of
	// values. An entry without the attribute may use all.
	Services string
}

// generic is the form of directories that are configured by a filter.
type generic struct{ d *LDAP }

func (g generic) find(_ context.Context, name string) (string, bool, error) {
	return g.d.filter(name), false, nil
}

func (g generic) tested() []string {
	names, _ := testedAttributes(g.d.o.Filter)
	return names
}

func (generic) further() []string                  { return nil }
func (generic) refine(*ldap.Entry, *backend.Entry) {}

func (generic) bindError(err error) error {
	switch {
	case ldap.IsErrorAnyOf(err, ldap.LDAPResultInvalidCredentials, ldap.LDAPResultInappropriateAuthentication,
		ldap.LDAPResultNoSuchObject, ldap.LDAPResultInvalidDNSyntax):
		return errWrongPassword
	case ldap.IsErrorAnyOf(err, ldap.LDAPResultConstraintViolation, ldap.LDAPResultUnwillingToPerform):
		return err // locked or inactive, in the words of the server
	}
	return nil
}

// attributes are those to ask for.
func (d *LDAP) attributes() []string {
	a := d.o.Attributes
	var out []string
	for _, s := range append([]string{a.User, a.Store, a.Disabled, a.Recipients, a.Host, a.Port, a.Quota, a.Services}, d.form.further()...) {
		if s != "" && !slices.ContainsFunc(out, func(have string) bool { return strings.EqualFold(have, s) }) {
			out = append(out, s)
		}
	}
	return out
}

// entry maps what was found. Attributes are as untrusted as any input: control
// characters and ambiguous values are refused where they would decide a route.
func (d *LDAP) entry(in *ldap.Entry) (backend.Entry, error) {
	a := d.o.Attributes
	e := backend.Entry{Directory: d.o.Name, ID: in.DN, CheckPassword: d.o.CheckPassword}
	var err error
	if e.User, err = d.single(in, a.User); err == nil && e.User == "" {
		err = d.unusable(in, a.User, nil)
	}
	if err != nil {
		return e, err
	}
	if e.Store, err = d.single(in, a.Store); err != nil {
		return e, err
	}
	if e.Host, err = d.single(in, a.Host); err != nil {
		return e, err
	}
	if e.Store == "" {
		e.Store, e.Host = e.Host, ""
	}
	if e.Store == "" {
		e.Store = d.o.DefaultStore
	}
	if e.Ports, err = d.ports(in, a.Port); err != nil {
		return e, err
	}
	if a.Disabled != "" && truth(in.GetEqualFoldAttributeValue(a.Disabled)) {
		e.Disabled, e.Reason = true, "the attribute "+a.Disabled+" says so"
	}
	if a.Recipients != "" {
		e.Recipients = addresses(in.GetEqualFoldAttributeValues(a.Recipients))
	}
	if a.Quota != "" {
		e.Quota = quota(in.GetEqualFoldAttributeValue(a.Quota))
	}
	if a.Services != "" {
		e.Services = services(in.GetEqualFoldAttributeValues(a.Services))
	}
	d.form.refine(in, &e)
	return e, nil
}

// single is the one usable value of an attribute, empty when there is none.
func (d *LDAP) single(in *ldap.Entry, attr string) (string, error) {
	if attr == "" {
		return "", nil
	}
	values := in.GetEqualFoldAttributeValues(attr)
	switch {
	case len(values) == 0:
		return "", nil
	case len(values) > 1 || !validName(values[0]):
		return "", d.unusable(in, attr, values)
	}
	return values[0], nil
}

func (d *LDAP) unusable(in *ldap.Entry, attr string, values []string) error {
	return backend.Errorf(backend.KindConflict, "", "directory %s: %s: attribute %s: want one usable value, have %q", d.o.Name, in.DN, attr, values)
}

func (d *LDAP) ports(in *ldap.Entry, attr string) (map[backend.Protocol]int, error) {
	if attr == "" {
		return nil, nil
	}
	ports, err := parsePorts(in.GetEqualFoldAttributeValues(attr))
	if err != nil {
		return nil, backend.Errorf(backend.KindConflict, "", "directory %s: %s: attribute %s: %w", d.o.Name, in.DN, attr, err)
	}
	return ports, nil
}

// parsePorts reads "1143" (IMAP's) and "pop3:1110". A port that is not one is
// an error: the default would be another server.
func parsePorts(values []string) (map[backend.Protocol]int, error) {
	var ports map[backend.Protocol]int
	for _, v := range values {
		word, number, tagged := strings.Cut(v, ":")
		p := backend.IMAP
		if !tagged {
			number = word
		} else if p = protocol(word); p == "" {
			return nil, fmt.Errorf("%q names no protocol", v)
		}
		n, err := strconv.ParseUint(strings.TrimSpace(number), 10, 16)
		if err != nil || n == 0 || ports[p] != 0 && ports[p] != int(n) {
			return nil, fmt.Errorf("no usable port in %q", values)
		}
		if ports == nil {
			ports = map[backend.Protocol]int{}
		}
		ports[p] = int(n)
	}
	return ports, nil
}

// protocol reads the words that directories use; empty: none of ours.
func protocol(word string) backend.Protocol {
	switch strings.ToLower(strings.TrimSpace(word)) {
	case "imap", "imap4", "imaps":
		return backend.IMAP
	case "pop", "pop3", "pop3s":
		return backend.POP3
	case "managesieve", "sieve":
		return backend.ManageSieve
	case "lmtp":
		return backend.LMTP
	case "smtp", "submission", "smtps":
		return backend.Submission
	}
	return ""
}

// services reads a list of protocols; no value at all means every protocol.
func services(values []string) []backend.Protocol {
	if len(values) == 0 {
		return nil
	}
	out := []backend.Protocol{}
	for _, v := range values {
		for _, word := range strings.FieldsFunc(v, func(r rune) bool { return strings.ContainsRune(" ,;|$", r) }) {
			p := protocol(word)
			if p == "" && strings.EqualFold(word, "all") {
				return nil
			}
			if p != "" && !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	return out
}

// quota reads a number of bytes; what it cannot read says nothing.
func quota(s string) int64 {
	s = strings.ToLower(strings.TrimSpace(s))
	digits := strings.TrimRight(s, "bikmgt ")
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n <= 0 {
		return 0
	}
	shift := map[string]uint{"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40}
	unit := strings.TrimSpace(s[len(digits):])
	if len(unit) > 1 {
		unit = strings.TrimSuffix(strings.TrimSuffix(unit, "b"), "i")
	}
	bits, ok := shift[unit]
	if !ok || n > math.MaxInt64>>bits {
		return 0
	}
	return n << bits
}

// addresses leaves out what is no mail address, as proxyAddresses holds X.500
// and SIP names, too.
func addresses(values []string) []string {
	var out []string
	for _, v := range values {
		if scheme, rest, ok := strings.Cut(v, ":"); ok {
			if !strings.EqualFold(scheme, "smtp") {
				continue
			}
			v = rest
		}
		out = append(out, v)
	}
	return out
}

// truth reads the words that directories use for a lock.
func truth(s string) bool {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "true", "yes", "y", "1", "on", "disabled", "inactive", "locked", "deleted":
		return true
	}
	return false
}
