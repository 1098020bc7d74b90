package directory

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-ldap/ldap/v3"
)

// up reports whether lookups may use the server.
func (s *ldapServer) up() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.downTil.IsZero()
}

// due reports whether a server that is down has rested long enough.
func (s *ldapServer) due(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !now.Before(s.downTil)
}

func (s *ldapServer) lastError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// failed notes a failure and returns it. Only an error that says something
// about the server marks it down: one caller's impatience does not.
func (s *ldapServer) failed(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) || requestError(err) {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	first, now := s.downTil.IsZero(), time.Now()
	if !first && now.Before(s.downTil) {
		return err // one of many that failed together
	}
	s.rest = min(max(2*s.rest, minRest), maxRest)
	s.downTil = now.Add(s.rest)
	s.err = err
	if first {
		s.d.log.Warn("directory server is down", "server", s.url, "error", err)
	}
	return err
}

// requestError: the server is well and did not like this one request.
func requestError(err error) bool {
	return ldap.IsErrorAnyOf(err, ldap.LDAPResultTimeLimitExceeded, ldap.LDAPResultAdminLimitExceeded,
		ldap.LDAPResultReferral, ldap.LDAPResultConstraintViolation, ldap.LDAPResultUndefinedAttributeType,
		ldap.LDAPResultInvalidAttributeSyntax, ldap.LDAPResultObjectClassViolation)
}

func (s *ldapServer) recovered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.downTil.IsZero() {
		s.d.log.Info("directory server is back", "server", s.url)
	}
	s.downTil, s.rest, s.err = time.Time{}, 0, nil
}

// probe looks behind the callers' backs whether a server that is down is well
// again. One probe runs at a time; it ends within the connect and request
// timeouts, and with close.
func (s *ldapServer) probe() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.probing || time.Now().Before(s.downTil) {
		return
	}
	s.probing = true
	s.wg.Go(func() {
		err := s.health()
		s.mu.Lock()
		s.probing = false
		s.mu.Unlock()
		if err != nil {
			s.failed(s.ctx, err)
			return
		}
		s.recovered()
	})
}

// health binds and reads the rootDSE (RFC 4512, 5.1).
func (s *ldapServer) health() error {
	c, err := s.dial(s.ctx, searchIdentity)
	if err != nil {
		return err
	}
	req := ldap.NewSearchRequest("", ldap.ScopeBaseObject, ldap.NeverDerefAliases, 1, 1, false, "(objectClass=*)", []string{"1.1"}, nil)
	err = s.request(s.ctx, c, func(lc *ldap.Conn) error {
		_, err := lc.Search(req)
		if ldap.IsErrorAnyOf(err, ldap.LDAPResultNoSuchObject, ldap.LDAPResultInsufficientAccessRights) {
			return nil // hidden, but it answers
		}
		return err
	})
	if err != nil {
		c.close()
		return fmt.Errorf("probe: %w", err)
	}
	s.put(searchIdentity, c)
	return nil
}
