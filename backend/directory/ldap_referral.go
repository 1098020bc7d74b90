package directory

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
)

// maxReferrals bounds how many other servers one answer may send us to.
const maxReferrals = 4

// searchReferred runs a search of at most a few entries. refs are the other
// servers that the answer names; only an answer that is nothing but a referral
// is an error, of code LDAPResultReferral, and has its refs, too.
func searchReferred(c *ldap.Conn, req *ldap.SearchRequest) (found []*ldap.Entry, refs []string, err error) {
	res, err := c.Search(req)
	if res != nil {
		found, refs = res.Entries, res.Referrals
	}
	if ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded) && len(found) > 1 {
		return found, refs, nil
	}
	return found, refs, err
}

// referredBy is the list of URLs in a result with the code referral (RFC 4511,
// 4.1.10).
func referredBy(err error) []string {
	var e *ldap.Error
	if !errors.As(err, &e) || e.ResultCode != ldap.LDAPResultReferral || e.Packet == nil || len(e.Packet.Children) < 2 {
		return nil
	}
	var refs []string
	for _, child := range e.Packet.Children[1].Children {
		if child.ClassType != ber.ClassContext || child.Tag != 3 {
			continue
		}
		for _, u := range child.Children {
			refs = append(refs, u.Data.String())
		}
	}
	return refs
}

// follow asks the servers that refs name; they are trusted with the search
// identity because the configuration says so, so TLS is never less than it was.
// Their own referrals lead nowhere. Any that does not answer fails all, since
// an entry there might be a second one.
func (s *ldapServer) follow(ctx context.Context, refs []string, req *ldap.SearchRequest) (found []*ldap.Entry, err error) {
	asked := 0
	for _, raw := range refs {
		u, err := url.Parse(raw)
		if err != nil || u.Hostname() == "" || u.Scheme != "ldap" && u.Scheme != "ldaps" {
			return nil, fmt.Errorf("%s: referral to %q cannot be followed", s.url, raw)
		}
		base := strings.TrimPrefix(u.Path, "/")
		if systemPartition(base) {
			continue
		}
		if asked++; asked > maxReferrals {
			return nil, fmt.Errorf("%s: more than %d referrals", s.url, maxReferrals)
		}
		more, err := s.ask(ctx, s.referredAddress(u), base, req)
		if err != nil {
			return nil, fmt.Errorf("%s: referral to %s: %w", s.url, raw, err)
		}
		found = append(found, more...)
	}
	return found, nil
}

// systemPartition: the parts of Active Directory that hold no users, to which
// every search from the root refers.
func systemPartition(base string) bool {
	first, _, _ := strings.Cut(strings.ToLower(base), ",")
	return first == "cn=configuration" || first == "dc=domaindnszones" || first == "dc=forestdnszones"
}

// referredAddress keeps the way of speaking: a referral of an ldaps:// server
// is followed by ldaps, whatever it says, as Active Directory never says so.
func (s *ldapServer) referredAddress(u *url.URL) string {
	port := u.Port()
	if s.upfront && u.Scheme == "ldap" || port == "" {
		port = map[bool]string{false: "389", true: "636"}[s.upfront]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

func (s *ldapServer) ask(ctx context.Context, addr, base string, req *ldap.SearchRequest) ([]*ldap.Entry, error) {
	host, _, _ := net.SplitHostPort(addr)
	other := &ldapServer{d: s.d, url: "ldap://" + addr, addr: addr, tls: s.tls, upfront: s.upfront, ctx: s.ctx}
	if s.tls != nil && !s.d.fixedName() {
		other.tls = s.tls.Clone()
		other.tls.ServerName = host
	}
	c, err := other.dial(ctx, searchIdentity)
	if err != nil {
		return nil, err
	}
	defer c.close()
	there := *req
	if base != "" {
		there.BaseDN = base
	}
	var found []*ldap.Entry
	err = other.request(ctx, c, func(lc *ldap.Conn) (err error) {
		found, _, err = searchReferred(lc, &there)
		if ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject) {
			err = nil
		}
		return err
	})
	return found, err
}

// fixedName: the configuration says which name to verify.
func (d *LDAP) fixedName() bool { return d.o.TLSConfig != nil && d.o.TLSConfig.ServerName != "" }
