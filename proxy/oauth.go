package proxy

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"mailferry/backend"
	"mailferry/internal/line"
)

const (
	mechOAuthBearer = "OAUTHBEARER" // RFC 7628
	mechXOAUTH2     = "XOAUTH2"     // Google's and Microsoft's form of the same
)

// Tokens say how clients may log in with OAuth tokens (XOAUTH2, OAUTHBEARER).
// The proxy checks none: it shows them to the user's store, if that one takes
// tokens (backend.Store.TakesTokens), and to nobody else.
type Tokens struct {
	Offer bool // the mechanisms are announced
	// Claim is the claim of a token that names the user, where a client names
	// none (OAUTHBEARER alone allows it); empty: such logins are refused. It
	// only chooses the store, which checks the token with that user.
	Claim string
	// Scope and Configuration tell clients, when a token is refused, what to
	// ask for, and where (RFC 7628, 3.2.2); may be empty.
	Scope         string
	Configuration string
}

// maxToken bounds a token; the line that brings it is shorter by a quarter.
const maxToken = 9 << 10

// saslXOAUTH2 reads user=NAME ^A auth=Bearer TOKEN ^A ^A.
func saslXOAUTH2(_ *front, next saslNext) (credentials, error) {
	msg, err := next("")
	if err != nil {
		return credentials{}, err
	}
	return parseXOAUTH2(string(msg))
}

func parseXOAUTH2(msg string) (credentials, error) {
	c := credentials{token: mechXOAUTH2}
	pairs, ok := oauthPairs(msg)
	if !ok || pairs["user"] == "" {
		return credentials{}, line.ErrSASL
	}
	c.user, c.password = pairs["user"], backend.Secret(pairs["auth"])
	return c, nil
}

// saslOAuthBearer reads RFC 7628, 3.1. Without an authorization identity the
// user is the one that the configured claim of the token names.
func saslOAuthBearer(f *front, next saslNext) (credentials, error) {
	msg, err := next("")
	if err != nil {
		return credentials{}, err
	}
	c, err := parseOAuthBearer(string(msg))
	if err == nil && c.user == "" {
		c.user = claimOf(c.password.Reveal(), f.p.o.Tokens.Claim)
	}
	return c, err
}

func parseOAuthBearer(msg string) (credentials, error) {
	header, rest, ok := strings.Cut(msg, "\x01")
	parts := strings.SplitN(header, ",", 3)
	// Channel binding (p=) is for the mechanisms -PLUS, which are not offered.
	if !ok || len(parts) != 3 || parts[0] != "n" && parts[0] != "y" || parts[2] != "" {
		return credentials{}, line.ErrSASL
	}
	c := credentials{token: mechOAuthBearer}
	if parts[1] != "" {
		name, ok := strings.CutPrefix(parts[1], "a=")
		if c.user, ok = saslName(name, ok); !ok {
			return credentials{}, line.ErrSASL
		}
	}
	pairs, ok := oauthPairs(rest)
	if !ok {
		return credentials{}, line.ErrSASL
	}
	c.password = backend.Secret(pairs["auth"])
	return c, nil
}

// saslName undoes the quoting of RFC 5801, 4: "=2C" is a comma, "=3D" an equals
// sign, and there is no other "=".
func saslName(s string, ok bool) (string, bool) {
	plain := strings.NewReplacer("=2C", "", "=3D", "").Replace(s)
	ok = ok && s != "" && !strings.Contains(plain, "=")
	return strings.NewReplacer("=2C", ",", "=3D", "=").Replace(s), ok
}

// oauthPairs reads key=value pairs, each ended by ^A, and the ^A at the end.
// "auth" becomes the token itself; it must be there.
func oauthPairs(s string) (pairs map[string]string, ok bool) {
	body, ok := strings.CutSuffix(s, "\x01\x01")
	if !ok {
		return nil, false
	}
	pairs = map[string]string{}
	for _, kv := range strings.Split(body, "\x01") {
		k, v, ok := strings.Cut(kv, "=")
		if _, twice := pairs[k]; !ok || twice {
			return nil, false
		}
		pairs[k] = v
	}
	scheme, token, found := strings.Cut(pairs["auth"], " ")
	if pairs["auth"] = strings.TrimLeft(token, " "); !found || !strings.EqualFold(scheme, "Bearer") || pairs["auth"] == "" {
		return nil, false
	}
	return pairs, true
}

// claimOf reads a claim of a JWT (RFC 7519) without verifying anything; empty:
// the token is none, or has no such claim.
func claimOf(token, claim string) string {
	parts := strings.Split(token, ".")
	if claim == "" || len(parts) != 3 {
		return ""
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var claims map[string]any
	if json.Unmarshal(payload, &claims) != nil {
		return ""
	}
	name, _ := claims[claim].(string)
	return name
}

// validSecret reports whether a password, or a token, may be shown to anybody.
// A token is one word of visible characters (RFC 6750, 2.1).
func (c *credentials) validSecret() bool {
	if c.token == "" {
		return line.ValidSecret(string(c.password))
	}
	bad := strings.ContainsFunc(c.password.Reveal(), func(r rune) bool { return r <= ' ' || r >= 0x7f })
	return !bad && len(c.password) <= maxToken
}

// mayShow refuses credentials that are of no use at a store.
func mayShow(c credentials, st *backend.Store, p backend.Protocol) error {
	switch {
	case c.token != "" && !st.TakesTokens:
		return denied(errors.New("store " + st.Name + " takes no tokens, and nobody else can check one: set its tokens: true if it does"))
	case c.proven && !delegated(st, p):
		return &loginError{outcomePassword, errors.New("store " + st.Name + " has no delegated login, which a login by certificate needs")}
	}
	return nil
}

// tokenRefused tells the client why, as both mechanisms demand: by a challenge
// that the client answers, with nothing (XOAUTH2) or ^A (OAUTHBEARER). What it
// answers changes nothing.
func (f *front) tokenRefused(c credentials) error {
	reason := struct {
		Status        string `json:"status"`
		Schemes       string `json:"schemes"`
		Scope         string `json:"scope,omitempty"`
		Configuration string `json:"openid-configuration,omitempty"`
	}{"invalid_token", "bearer", f.p.o.Tokens.Scope, f.p.o.Tokens.Configuration}
	if c.token == mechXOAUTH2 {
		reason.Status = "401"
	}
	text, err := json.Marshal(reason)
	if err != nil {
		return err
	}
	f.c.WriteString(f.proto.challenge(base64.StdEncoding.EncodeToString(text)))
	if f.c.Flush() != nil {
		return errQuit
	}
	left := time.Until(f.deadline)
	if left <= 0 {
		f.proto.bye(f, "Login takes too long")
		return errQuit
	}
	f.c.SetTimeout(min(f.p.o.CommandTimeout, left))
	_, err = f.proto.response(f)
	if errors.Is(err, line.ErrSASL) {
		err = nil // it says no, whatever it says
	}
	return err
}
