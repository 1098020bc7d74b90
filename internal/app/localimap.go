package app

import (
	"context"

	"mailferry/backend"
	"mailferry/proxy"
)

// localIMAP is the way from this node's proxy to our own store.
type localIMAP struct{}

func (a *App) buildIMAP(context.Context) error { return nil }

func (l *localIMAP) capabilities() []string { return nil }

func (l *localIMAP) connect(context.Context, proxy.ConnectRequest) (proxy.BackendConn, error) {
	return proxy.BackendConn{}, backend.Errorf(backend.KindUnavailable, "", "our own store serves no IMAP yet")
}
