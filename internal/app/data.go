package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"mailferry/cluster"
	"mailferry/internal/admin"
	"mailferry/store"
)

// What is in the data directory besides the lock.
const (
	dirEngine = "mail"    // logs, state and bodies
	dirTLS    = "tls"     // the certificate made at first start
	dirMoves  = "migrate" // journals
	dirSpool  = "spool"   // large messages on their way
	// dirReplicas holds the routes of directories, one file each.
	dirReplicas = "replica"
	fileLogins  = "last-logins"
	fileSecret  = "admin.secret"
	fileFirst   = "first-start" // there while the first users are being made
)

func (a *App) path(name string) string { return filepath.Join(a.conf.Data, name) }

// openData makes the data directory and locks it: two nodes on one directory
// would take each other's socket.
func (a *App) openData(context.Context) error {
	if err := os.MkdirAll(a.conf.Data, 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(a.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	// The lock goes with the process, however that ends.
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return admin.WithHint(fmt.Errorf("another node runs on %s", a.conf.Data), "use another directory with --data, or stop that node")
	}
	a.life.onClose("lock", lock.Close)
	return nil
}

func (a *App) loadCertificates(context.Context) error {
	return a.certs.load(a.conf.TLS.Certificates, a.path(dirTLS), a.o.Now())
}

// bind opens all listeners, the socket of the commands included.
func (a *App) bind(context.Context) error {
	ls, err := bind(a.conf)
	if err != nil {
		return admin.WithHint(err, "is another node running? --ports BASE moves all default ports")
	}
	a.listeners = ls
	a.life.onClose("listeners", ls.close)
	a.socket, err = listenSocket(admin.SocketPath(a.conf.Data))
	if err != nil {
		return err
	}
	a.life.onClose("socket", func() error { return ignoreClosed(a.socket.Close()) })
	return nil
}

// listenSocket makes a socket that only the owner can open. One that a killed
// node left is replaced: the lock says that nobody listens there.
func listenSocket(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// openEngine starts the replicas of this node. The store's machine runs on it;
// placements are in its table.
func (a *App) openEngine(context.Context) error {
	metrics, err := engineMetrics(a.o.Registry)
	if err != nil {
		return err
	}
	node, err := cluster.Open(cluster.Options{
		NodeID: 1, Dir: a.path(dirEngine), Machine: store.NewMachine(),
		Logger: a.log.With("part", "cluster"), Metrics: metrics, MaxBody: int64(a.conf.Limits.Message), MemoryBytes: int64(a.conf.Memory),
	})
	if err != nil {
		return err
	}
	a.engine = node
	a.life.onStop("engine", node.Close)
	a.parts = append(a.parts, part{name: "engine watch", serve: func(ctx context.Context) error {
		select {
		case <-node.Failed():
			return node.Err()
		case <-ctx.Done():
			return nil
		}
	}})
	return nil
}
