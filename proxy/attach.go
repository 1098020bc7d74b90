package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"mailferry/backend"
)

// attach carries a session at rest over to route. The old connection is kept
// until the new store has taken the session; the client sees nothing. The
// reason is empty when it is done.
func (s *session) attach(route backend.Route) reason {
	s.mu.Lock()
	why := s.tr.verdict()
	rest := s.tr.resting()
	cmd, tag, bare := s.tr.resume()
	s.mu.Unlock()
	switch {
	case why != "":
		return why
	case !rest:
		return reasonBusy
	case !route.Store.Local() && !bare:
		return reasonForeign
	case !delegated(route.Store, s.proto.name) && s.password == "":
		return reasonNoSecret
	}
	ctx, cancel := context.WithTimeout(s.p.ctx, s.p.o.AttachLimit)
	defer cancel()
	b, err := s.p.o.Connector.Connect(ctx, ConnectRequest{Route: route, Protocol: s.proto.name,
		Password: s.password, Client: s.client.RemoteAddr(), Session: s.id})
	if err != nil {
		s.log.Warn("new store cannot be reached", "store", route.Store.Name, "error", err)
		return reasonConnect
	}
	if !s.tr.fits(b.Caps) {
		b.Close()
		return reasonForeign
	}
	if route.Store.Local() && cmd != nil {
		if b.Buffered, err = resume(ctx, b, cmd, tag); err != nil {
			b.Close()
			s.log.Warn("new store refuses to resume", "store", route.Store.Name, "error", err)
			if errors.Is(err, errCannot) {
				return reasonRefused
			}
			return reasonConnect
		}
	}
	return s.replace(b, route)
}

// replace swaps the backend connections and lets the client go on.
func (s *session) replace(b BackendConn, route backend.Route) reason {
	var out output
	s.mu.Lock()
	if s.closing || !s.tr.resting() {
		s.mu.Unlock()
		b.Close()
		return reasonOldClosed
	}
	if why := s.tr.verdict(); why != "" {
		s.mu.Unlock()
		b.Close()
		return why
	}
	old := s.leg
	s.leg = s.newLeg(b)
	s.route, s.at = route, b.Host
	s.frozen = nil
	s.tr.replaced()
	s.tr.release(&out)
	l := s.leg
	s.mu.Unlock()
	old.Close() // down goes over to the new one
	s.carryOut(l, &out)
	return ""
}

var errCannot = errors.New("RESUME was refused")

// resume sends RESUME and waits for its answer, which is the first line: no
// untagged data may come before it. It returns what was received behind it.
func resume(ctx context.Context, b BackendConn, cmd []byte, tag string) (received []byte, err error) {
	stop := context.AfterFunc(ctx, func() { b.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() && err == nil {
			err = ctx.Err()
		}
		b.SetDeadline(time.Time{})
	}()
	if _, err := b.Write(cmd); err != nil {
		return nil, err
	}
	r := bufio.NewReaderSize(io.MultiReader(bytes.NewReader(b.Buffered), b.Conn), 4096)
	l, err := r.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	rest, ok := strings.CutPrefix(string(l), tag+" ")
	if !ok {
		return nil, fmt.Errorf("%w: unexpected %.80q", errCannot, l)
	}
	if !strings.HasPrefix(rest, "OK ") {
		return nil, fmt.Errorf("%w: %.80q", errCannot, rest)
	}
	received, _ = r.Peek(r.Buffered())
	return bytes.Clone(received), nil
}
