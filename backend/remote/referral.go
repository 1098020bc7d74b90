package remote

import (
	"net/url"
	"strings"
)

// Referral is the error of a store that sends us to another server for this
// user (RFC 2221; RFC 5804, 1.3; Dovecot in POP3). Whether to go there is the
// caller's decision: the name came from the store.
type Referral struct {
	Host string // without port
	err  error
}

func (r *Referral) Error() string { return r.err.Error() }
func (r *Referral) Unwrap() error { return r.err }

// referralHost reads the response code REFERRAL; empty: it is none, or names no
// host. Its argument is a URL, quoted in ManageSieve.
func referralHost(code string) string {
	word, arg, _ := strings.Cut(strings.TrimSpace(code), " ")
	if !strings.EqualFold(word, "REFERRAL") {
		return ""
	}
	u, err := url.Parse(strings.Trim(strings.TrimSpace(arg), `"`))
	if err != nil {
		return ""
	}
	return u.Hostname()
}
