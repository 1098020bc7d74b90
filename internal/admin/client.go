package admin

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"

	"mailferry/backend"
)

// Client asks a node over its socket. Errors carry the kinds of the node's
// errors; KindUnavailable also when there is no node.
type Client struct {
	http *http.Client
	base string
}

// SocketPath is where a node with this data directory listens for commands.
func SocketPath(data string) string { return filepath.Join(data, "admin.sock") }

// NewClient is for the node that runs on the data directory. It dials when
// something is asked.
func NewClient(data string) *Client {
	socket := SocketPath(data)
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		if err != nil {
			err = backend.Errorf(backend.KindUnavailable, "", "no node answers on %s: %w", socket, errors.Unwrap(err))
			return nil, WithHint(err, "start one with: mailferry serve --data "+data+"; or name its directory with --data")
		}
		return conn, nil
	}}
	return &Client{http: &http.Client{Transport: transport}, base: "http://node"}
}

// NewRemoteClient is for the node whose admin listener is at this address,
// https://host:8443. config verifies the node and holds the admin's certificate.
func NewRemoteClient(address string, config *tls.Config) (*Client, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.Path != "" && u.Path != "/" || u.User != nil {
		return nil, backend.NewError(backend.KindInvalid, address+" is not the address of an admin listener: write https://host:8443")
	}
	config = config.Clone()
	config.NextProtos = []string{"http/1.1"}
	return &Client{http: &http.Client{Transport: &http.Transport{TLSClientConfig: config}, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}, base: "https://" + u.Host}, nil
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// do sends one request; out may be nil.
func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if raw, ok := out.(*json.RawMessage); ok {
		text, err := io.ReadAll(resp.Body)
		*raw = text
		return err
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("answer to %s %s: %w", method, path, err)
	}
	return nil
}

// send returns a successful response; an error of the node becomes one here.
func (c *Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var text bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&text).Encode(in); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, &text)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) { // its text repeats the made-up address
			err = u.Err
		}
		return nil, err
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, errorFrom(resp)
}

func errorFrom(resp *http.Response) error {
	var e apiError
	if err := json.NewDecoder(resp.Body).Decode(&e); err != nil || e.Text == "" {
		return fmt.Errorf("the node answers %s", resp.Status)
	}
	err := backend.NewError(kindNamed(e.Kind), e.Text)
	if e.Hint != "" {
		return WithHint(err, e.Hint)
	}
	return err
}

func get[T any](ctx context.Context, c *Client, path string, parts ...string) (v T, err error) {
	return v, c.do(ctx, http.MethodGet, escaped(path, parts), nil, &v)
}

// escaped fills each {} of path with an escaped part.
func escaped(path string, parts []string) string {
	args := make([]any, len(parts))
	for i, p := range parts {
		args[i] = url.PathEscape(p)
	}
	return fmt.Sprintf(path, args...)
}

// Health asks how the node is.
func (c *Client) Health(ctx context.Context) (Health, error) {
	return get[Health](ctx, c, "/v1/health")
}

var (
	_ Users         = (*Client)(nil)
	_ Checker       = (*Client)(nil)
	_ Sessions      = (*Client)(nil)
	_ Routes        = (*Client)(nil)
	_ Migrations    = (*MigrationClient)(nil)
	_ Verifications = (*Client)(nil)
)

// ListUsers implements Users.
func (c *Client) ListUsers(ctx context.Context) ([]User, error) {
	return get[[]User](ctx, c, "/v1/users")
}

// User implements Users.
func (c *Client) User(ctx context.Context, name string) (User, error) {
	return get[User](ctx, c, "/v1/users/%s", name)
}

// AddUser implements Users.
func (c *Client) AddUser(ctx context.Context, n NewUser) (u User, err error) {
	return u, c.do(ctx, http.MethodPost, "/v1/users", n, &u)
}

// SetPassword implements Users.
func (c *Client) SetPassword(ctx context.Context, name string, password backend.Secret) error {
	return c.do(ctx, http.MethodPut, escaped("/v1/users/%s/password", []string{name}), NewUser{Password: password.Reveal()}, nil)
}

// SetDisabled implements Users.
func (c *Client) SetDisabled(ctx context.Context, name string, disabled bool) error {
	return c.do(ctx, http.MethodPut, escaped("/v1/users/%s/disabled", []string{name}), User{Disabled: disabled}, nil)
}

// DeleteUser implements Users.
func (c *Client) DeleteUser(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, escaped("/v1/users/%s", []string{name}), nil, nil)
}

// Check implements Checker.
func (c *Client) Check(ctx context.Context, bodies bool) ([]string, error) {
	if bodies {
		return get[[]string](ctx, c, "/v1/fsck?bodies=1")
	}
	return get[[]string](ctx, c, "/v1/fsck")
}
