package remote

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"mailferry/backend"
)

// tokenMechanisms are the ways in which a store may take an OAuth token, the
// standard's before Google's and Microsoft's.
var tokenMechanisms = []string{mechOAuthBearer, mechXOAUTH2}

const (
	mechPlain       = "PLAIN"
	mechOAuthBearer = "OAUTHBEARER" // RFC 7628
	mechXOAUTH2     = "XOAUTH2"
)

// mechanism is the SASL mechanism by which a store that announces these can be
// told id; ok is false where it announces none that can.
func (id identity) mechanism(announced func(mechanism string) bool) (name string, ok bool) {
	if !id.token {
		return mechPlain, announced(mechPlain)
	}
	i := slices.IndexFunc(tokenMechanisms, announced)
	if i < 0 {
		return "OAUTHBEARER or XOAUTH2", false
	}
	return tokenMechanisms[i], true
}

// message is the client's first message of a mechanism in base64, and its
// answer to the challenge that follows when the store refuses: a token's
// mechanisms send the reason so, and fail behind the answer. PLAIN knows no
// challenge: it is cancelled.
func (id identity) message(mechanism string) (first, afterwards string) {
	secret := id.secret.Reveal()
	switch mechanism {
	case mechOAuthBearer:
		first = "n,a=" + strings.NewReplacer("=", "=3D", ",", "=2C").Replace(id.user) + ",\x01auth=Bearer " + secret + "\x01\x01"
		afterwards = "AQ==" // RFC 7628, 3.2.3
	case mechXOAUTH2:
		first = "user=" + id.user + "\x01auth=Bearer " + secret + "\x01\x01"
	default:
		first, afterwards = id.authzid+"\x00"+id.user+"\x00"+secret, "*"
	}
	return base64.StdEncoding.EncodeToString([]byte(first)), afterwards
}

// masked keeps what a store says of a login from showing what we sent.
func (id identity) masked(text string) string {
	secret := id.secret.Reveal()
	if len(secret) < 3 { // a text without short words is none
		return text
	}
	hide := []string{secret, base64.StdEncoding.EncodeToString([]byte(secret))}
	for _, m := range append([]string{mechPlain}, tokenMechanisms...) {
		first, _ := id.message(m)
		hide = append(hide, first)
	}
	for _, s := range hide {
		text = strings.ReplaceAll(text, s, "[secret]")
	}
	return text
}

// fetchToken puts a token of the store's source into id.
func (t *Target) fetchToken(ctx context.Context, id *identity) error {
	tokens := t.Store.Login.Tokens
	if tokens == nil {
		return backend.Errorf(backend.KindBug, "", "store %s: login by OAuth without a source of tokens", t.Store.Name)
	}
	secret, err := tokens.Token(ctx, t.User)
	if err != nil {
		return backend.Errorf(backend.KindUnavailable, "The mail store cannot be reached.", "token for store %s: %w", t.Store.Name, err)
	}
	id.user, id.secret, id.token = t.User, secret, true
	return nil
}

// tokenRefused has the source forget a token that the store did not take.
func (t *Target) tokenRefused(id identity, err error) {
	if id.token && t.Store.Login.Mode == backend.LoginOAuth && t.Store.Login.Tokens != nil && backend.IsKind(err, backend.KindAuthentication) {
		t.Store.Login.Tokens.Refused(t.User, id.secret)
	}
}

// noMechanism is a store that cannot be told who we are.
func noMechanism(name string) error {
	return fmt.Errorf("the store does not offer SASL %s, which this login needs", name)
}
