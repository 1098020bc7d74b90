package directory

import (
	"errors"
	"regexp"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"
)

// AccountState is why Active Directory refuses a bind, from the sub-code in
// the diagnostic message of a result 49.
type AccountState string

// The states that are known.
const (
	StateWrongPassword   AccountState = "52e"
	StateNoSuchUser      AccountState = "525"
	StateLogonHours      AccountState = "530"
	StateWorkstation     AccountState = "531"
	StatePasswordExpired AccountState = "532"
	StateDisabled        AccountState = "533"
	StateAccountExpired  AccountState = "701"
	StateMustChange      AccountState = "773"
	StateLocked          AccountState = "775"
)

var stateTexts = map[AccountState]string{
	StateWrongPassword: "wrong password", StateNoSuchUser: "no such user", StateLogonHours: "not at this time of day",
	StateWorkstation: "not from this workstation", StatePasswordExpired: "the password has expired",
	StateDisabled: "the account is disabled", StateAccountExpired: "the account has expired",
	StateMustChange: "the password must be changed first", StateLocked: "the account is locked",
}

func (s AccountState) String() string {
	if text := stateTexts[s]; text != "" {
		return text
	}
	return "refused for an unknown reason"
}

// AccountError is in the chain of the KindAuthentication error of a refused
// bind: the same answer as a wrong password to the client, the truth for the
// log.
type AccountError struct {
	State AccountState
	Err   error // the server's own words; nil when it was not asked
}

func (e *AccountError) Error() string {
	if e.Err == nil {
		return e.State.String()
	}
	return e.State.String() + ": " + e.Err.Error()
}

func (e *AccountError) Unwrap() error { return e.Err }

// subCode is what follows "data" in the diagnostic message:
// "80090308: LdapErr: DSID-0C09041C, comment: AcceptSecurityContext error, data 52e, v4563".
var subCode = regexp.MustCompile(`(?i)\bdata ([0-9a-f]{1,8})\b`)

// bindError implements form.
func (a *activeDirectory) bindError(err error) error {
	if ldap.IsErrorWithCode(err, ldap.LDAPResultInvalidCredentials) {
		state := AccountState("")
		if m := subCode.FindStringSubmatch(err.Error()); m != nil {
			state = AccountState(strings.TrimLeft(strings.ToLower(m[1]), "0"))
		}
		return &AccountError{State: state, Err: err}
	}
	if ldap.IsErrorWithCode(err, ldap.LDAPResultStrongAuthRequired) {
		return nil // says nothing about the user
	}
	return generic{}.bindError(err)
}

// lockRest is how long a locked account is not tried again: each wrong
// password would prolong the lock, and an unlocked user waits no longer.
const lockRest = time.Minute

// shield is a form that keeps some binds from the server.
type shield interface {
	// shielded returns why a bind need not be tried, else nil.
	shielded(dn string) error
	// outcome is told what came of one; nil: it was right.
	outcome(dn string, reason error)
}

func (a *activeDirectory) shielded(dn string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if until, ok := a.locked.Get(dn); ok && a.d.o.Now().Before(until) {
		return &AccountError{State: StateLocked}
	}
	return nil
}

func (a *activeDirectory) outcome(dn string, reason error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var e *AccountError
	if errors.As(reason, &e) && e.State == StateLocked {
		a.locked.Add(dn, a.d.o.Now().Add(lockRest))
		return
	}
	a.locked.Remove(dn)
}
