package remote

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
	"golang.org/x/oauth2/jwt"

	"mailferry/backend"
)

// Bounds of fetching tokens. A token endpoint that is away is asked once in
// tokenPause, whatever the number of logins.
const (
	tokenTimeout = 5 * time.Second
	tokenPause   = 2 * time.Second
	tokenMargin  = 30 * time.Second // a token is not used this short before its end
	maxTokens    = 10_000           // remembered, of users
)

// ClientCredentials gives one token for all users, as Exchange Online does for
// an application (RFC 6749, 4.4).
type ClientCredentials struct {
	URL, ClientID string
	Secret        backend.Secret
	Scopes        []string
	TLS           *tls.Config // nil: the system's authorities
}

// NewClientCredentials makes the source; nothing is fetched yet.
func NewClientCredentials(c ClientCredentials) backend.TokenSource {
	conf := clientcredentials.Config{ClientID: c.ClientID, ClientSecret: c.Secret.Reveal(), TokenURL: c.URL, Scopes: c.Scopes}
	hc := tokenClient(c.TLS)
	return newTokens(func(ctx context.Context, _ string) (*oauth2.Token, error) {
		return conf.Token(context.WithValue(ctx, oauth2.HTTPClient, hc))
	}, func(string) string { return "" })
}

// NewServiceAccount gives a token for each user, by the key file of a Google
// service account with domain-wide delegation (RFC 7523).
func NewServiceAccount(file string, scopes []string, c *tls.Config) (backend.TokenSource, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var key struct {
		Email   string `json:"client_email"`
		ID      string `json:"private_key_id"`
		Private string `json:"private_key"`
		URL     string `json:"token_uri"`
	}
	if err := json.Unmarshal(text, &key); err != nil || key.Email == "" || key.Private == "" || key.URL == "" {
		return nil, fmt.Errorf("%s is no key file of a service account", file)
	}
	hc := tokenClient(c)
	return newTokens(func(ctx context.Context, user string) (*oauth2.Token, error) {
		conf := jwt.Config{Email: key.Email, PrivateKey: []byte(key.Private), PrivateKeyID: key.ID, TokenURL: key.URL, Scopes: scopes, Subject: user}
		return conf.TokenSource(context.WithValue(ctx, oauth2.HTTPClient, hc)).Token()
	}, func(user string) string { return user }), nil
}

func tokenClient(c *tls.Config) *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = c
	t.MaxIdleConns, t.IdleConnTimeout = 2, time.Minute
	// A redirect would carry the secret to somewhere else.
	return &http.Client{Transport: t, Timeout: tokenTimeout, CheckRedirect: func(*http.Request, []*http.Request) error {
		return errors.New("a token endpoint that redirects")
	}}
}

// tokens remembers tokens. Each is fetched by one login; the others wait.
type tokens struct {
	fetch func(ctx context.Context, user string) (*oauth2.Token, error)
	key   func(user string) string // what a token is remembered by

	mu    sync.Mutex
	known map[string]*token
}

type token struct {
	done   chan struct{} // closed: what follows is valid
	secret backend.Secret
	until  time.Time // zero: for ever
	err    error
}

func newTokens(fetch func(context.Context, string) (*oauth2.Token, error), key func(string) string) *tokens {
	return &tokens{fetch: fetch, key: key, known: map[string]*token{}}
}

// Token implements backend.TokenSource.
func (s *tokens) Token(ctx context.Context, user string) (backend.Secret, error) {
	key := s.key(user)
	s.mu.Lock()
	t := s.known[key]
	if t == nil || t.over() {
		s.forgetSome()
		t = &token{done: make(chan struct{})}
		s.known[key] = t
		// It is for whoever waits, so no single login's end ends it.
		go s.fill(context.WithoutCancel(ctx), t, user)
	}
	s.mu.Unlock()
	select {
	case <-t.done:
		return t.secret, t.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// over reports whether a token that was fetched is of no more use.
func (t *token) over() bool {
	select {
	case <-t.done:
		return !t.until.IsZero() && time.Now().After(t.until)
	default:
		return false
	}
}

func (s *tokens) fill(ctx context.Context, t *token, user string) {
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	defer close(t.done)
	got, err := s.fetch(ctx, user)
	if err != nil {
		t.err, t.until = safeTokenError(err), time.Now().Add(tokenPause)
		return
	}
	t.secret = backend.Secret(got.AccessToken)
	if !got.Expiry.IsZero() {
		t.until = got.Expiry.Add(-tokenMargin)
	}
}

// safeTokenError drops the endpoint's text, which may repeat what was sent.
func safeTokenError(err error) error {
	var re *oauth2.RetrieveError
	if errors.As(err, &re) && re.Response != nil {
		return fmt.Errorf("the token endpoint answers %s %s", re.Response.Status, re.ErrorCode)
	}
	return err
}

// forgetSome keeps the memory bounded.
func (s *tokens) forgetSome() {
	if len(s.known) < maxTokens {
		return
	}
	for key, t := range s.known {
		if t.over() || len(s.known) > maxTokens*3/4 {
			delete(s.known, key)
		}
	}
}

// Refused implements backend.TokenSource.
func (s *tokens) Refused(user string, secret backend.Secret) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.known[s.key(user)]
	if t == nil {
		return
	}
	select {
	case <-t.done:
		if t.secret == secret { // not again before a pause: refusals must not become fetches without end
			t.until = time.Now().Add(tokenPause)
		}
	default:
	}
}

// tokenFile reads the token that another program writes.
type tokenFile struct{ path string }

// NewTokenFile gives the token in a file, as it is at each login.
func NewTokenFile(path string) backend.TokenSource { return tokenFile{path} }

// Token implements backend.TokenSource.
func (f tokenFile) Token(context.Context, string) (backend.Secret, error) {
	text, err := os.ReadFile(f.path)
	t := strings.TrimSpace(string(text))
	if err == nil && t == "" {
		err = fmt.Errorf("%s is empty", f.path)
	}
	return backend.Secret(t), err
}

// Refused implements backend.TokenSource.
func (tokenFile) Refused(string, backend.Secret) {}
