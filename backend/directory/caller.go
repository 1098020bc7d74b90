package directory

import (
	"context"
	"net/netip"

	"mailferry/backend"
)

// Caller is the client for whom a directory is asked. Drivers that pass it on
// (http) do so with passwords; lookups are shared by all clients and protocols.
type Caller struct {
	Protocol backend.Protocol
	Address  netip.Addr
	Attempt  int // of this connection, from 1
}

type callerKey struct{}

// WithCaller says on whose behalf the calls with this context are.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

func callerOf(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

// protocol is nginx's word; what it does not know counts as IMAP.
func (c Caller) protocol() string {
	switch c.Protocol {
	case backend.POP3:
		return "pop3"
	case backend.Submission:
		return "smtp"
	}
	return "imap"
}

func (c Caller) address() string {
	if !c.Address.IsValid() {
		return "127.0.0.1"
	}
	return c.Address.Unmap().String()
}
