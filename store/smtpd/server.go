package smtpd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"

	"github.com/emersion/go-smtp"
)

// Server runs a go-smtp server on any number of listeners.
type Server struct {
	smtp   *smtp.Server
	log    *slog.Logger
	ctx    context.Context
	cancel context.CancelFunc

	mu       sync.Mutex
	stopped  bool
	drainers []*drainer
}

// NewServer takes over a configured go-smtp server; its log goes to logger (nil:
// nowhere).
func NewServer(s *smtp.Server, logger *slog.Logger) *Server {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	s.ErrorLog = logBridge{logger}
	ctx, cancel := context.WithCancel(context.Background())
	return &Server{smtp: s, log: logger, ctx: ctx, cancel: cancel}
}

// Context ends when Shutdown gives up waiting; sessions derive theirs from it.
func (s *Server) Context() context.Context { return s.ctx }

// Serve accepts connections until Shutdown, then returns nil. With a TLS
// configuration, TLS begins at once (RFC 8314); else it may begin by STARTTLS.
func (s *Server) Serve(l net.Listener, implicit *tls.Config) error {
	d := newDrainer(l)
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		return errors.Join(net.ErrClosed, l.Close())
	}
	s.drainers = append(s.drainers, d)
	s.mu.Unlock()
	if implicit != nil {
		return s.smtp.Serve(tls.NewListener(d, implicit))
	}
	return s.smtp.Serve(d)
}

// Shutdown closes the listeners, ends idle sessions with 421, and waits for
// messages that are being received; when ctx ends it closes what is left.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.stopped = true
	drainers := s.drainers
	s.mu.Unlock()
	done := make(chan error, 1)
	go func() { done <- s.smtp.Shutdown(context.Background()) }()
	for _, d := range drainers {
		d.drain()
	}
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		s.cancel()
		for _, d := range drainers {
			d.closeAll()
		}
		err = errors.Join(ctx.Err(), <-done)
	}
	s.cancel()
	if errors.Is(err, smtp.ErrServerClosed) {
		return nil
	}
	return err
}

// closeAll ends every connection, whatever it does.
func (d *drainer) closeAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := range d.conns {
		c.Conn.Close()
	}
}

// logBridge is go-smtp's log. Its lines are about peers that hang up and
// handshakes that fail.
type logBridge struct{ log *slog.Logger }

func (l logBridge) Printf(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l logBridge) Println(v ...any)               { l.log.Debug(fmt.Sprint(v...)) }
