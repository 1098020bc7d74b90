package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"mailferry/internal/config"
)

// listeners are the bound sockets by name of their protocol in the
// configuration.
type listeners map[string][]net.Listener

// bind opens every configured address that the node's roles serve; it is all
// or nothing.
func bind(c *config.Config) (listeners, error) {
	wanted := map[string][]string{"admin": c.Listen.Admin}
	if c.HasRole(config.RoleProxy) {
		wanted["imap"], wanted["imaps"], wanted["lmtp"] = c.Listen.IMAP, c.Listen.IMAPS, c.Listen.LMTP
		wanted["pop3"], wanted["pop3s"], wanted["managesieve"] = c.Listen.POP3, c.Listen.POP3S, c.Listen.ManageSieve
	}
	if c.HasRole(config.RoleIngress) {
		wanted["submission"], wanted["submissions"] = c.Listen.Submission, c.Listen.Submissions
	}
	bound := listeners{}
	var errs []error
	for name, addresses := range wanted {
		for _, a := range addresses {
			l, err := listen(a)
			if err != nil {
				errs = append(errs, fmt.Errorf("listen.%s: %w", name, err))
				continue
			}
			bound[name] = append(bound[name], l)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(err, bound.close())
	}
	return bound, nil
}

// listen opens a socket whose connections inherit what detects dead peers, so
// that accepting one takes no call for it. The wait is long: phones sleep.
func listen(address string) (net.Listener, error) {
	c := net.ListenConfig{KeepAlive: -1, Control: keepAlive}
	return c.Listen(context.Background(), "tcp", address)
}

// close closes all; one that its server has closed already is no error.
func (ls listeners) close() error {
	var errs []error
	for _, list := range ls {
		for _, l := range list {
			if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// addr is the first address of a protocol, empty when it is not served.
func (ls listeners) addr(name string) string {
	if len(ls[name]) == 0 {
		return ""
	}
	return ls[name][0].Addr().String()
}

// summary lists what is bound, for the log.
func (ls listeners) summary() []string {
	var bound []string
	for name, list := range ls {
		for _, l := range list {
			bound = append(bound, name+"="+l.Addr().String())
		}
	}
	slices.Sort(bound)
	return bound
}
