package config

import (
	"fmt"
	"net/url"
	"slices"
	"time"

	"mailferry/backend"
)

// Where a client's certificate names the user.
const (
	ClientUserEmail = "email"
	ClientUserCN    = "cn"
)

// checkCredentials reports mistakes in how clients may log in.
func checkCredentials(c *Config, r *report) {
	oneOf(r, "tls.client_user", c.TLS.ClientUser, []string{ClientUserEmail, ClientUserCN})
	if c.Tokens != (Tokens{}) && !slices.ContainsFunc(c.Stores, func(s Store) bool { return s.Tokens }) {
		r.add("tokens", "no store has tokens: true, so nobody could check one")
	}
}

// maxCapture bounds how long the password of a login may be kept.
const maxCapture = 30 * 24 * time.Hour

// checkLogin reports mistakes in how to log in to a foreign store.
func checkLogin(l *Login, key string, r *report) {
	if l.Capture < 0 || l.Capture > maxCapture {
		r.add(key+".capture", "is between 0s and %s", maxCapture)
	}
	if l.Capture > 0 && l.Mode != backend.LoginUser {
		r.add(key+".capture", "is for mode user: mode %s needs no user's password", l.Mode)
	}
	switch l.Mode {
	case backend.LoginOAuth:
		checkOAuth(&l.OAuth, key+".oauth", r)
		return
	case backend.LoginAuthzid, backend.LoginMaster, backend.LoginProxyAuth:
		if l.User == "" || l.Password == "" {
			r.add(key, "mode %s needs user and password", l.Mode)
		}
	}
	if l.OAuth.TokenURL != "" || l.OAuth.TokenFile != "" || l.OAuth.ServiceAccount != "" {
		r.add(key+".oauth", "is for mode oauth")
	}
}

func checkOAuth(o *OAuth, key string, r *report) {
	ways := 0
	for _, way := range []string{o.TokenURL, o.TokenFile, o.ServiceAccount} {
		if way != "" {
			ways++
		}
	}
	if ways != 1 {
		r.add(key, "needs one of token_url, token_file and service_account")
	}
	if o.TokenURL != "" {
		u, err := url.Parse(o.TokenURL)
		if err != nil || u.Host == "" || u.Scheme != "https" && !loopbackURL(u) {
			r.add(key+".token_url", "%q is not an address: write https://host/path", o.TokenURL)
		}
		if o.ClientID == "" || o.ClientSecret == "" {
			r.add(key, "token_url needs client_id and client_secret")
		}
	}
	if o.ServiceAccount != "" && len(o.Scopes) == 0 {
		r.add(key+".scopes", "is required for a service account: https://mail.google.com/ for mail")
	}
}

// loopbackURL: a secret may go in clear to this machine only.
func loopbackURL(u *url.URL) bool {
	return u.Scheme == "http" && (u.Hostname() == "127.0.0.1" || u.Hostname() == "::1" || u.Hostname() == "localhost")
}

func checkAlternates(s *Store, key string, r *report) {
	if s.Address == "" && len(s.Alternates) > 0 {
		r.add(key+".alternates", "are for a store with an address")
	}
	for i, a := range s.Alternates {
		if a == "" || a == s.Address || slices.Contains(s.Alternates[:i], a) {
			r.add(fmt.Sprintf("%s.alternates[%d]", key, i), "%q is no further address", a)
		}
	}
	if s.Sessions < 0 {
		r.add(key+".sessions", "must not be below zero")
	}
}
