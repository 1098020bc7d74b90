package directory

import (
	"errors"
	"fmt"
	"testing"

	"github.com/go-ldap/ldap/v3"
)

// TestBroken: a pooled connection is replaced for faults of the network, also
// for those that the library reports as bare text, and not for answers.
func TestBroken(t *testing.T) {
	for want, errs := range map[bool][]error{
		true: {errors.New("unable to send request: use of closed network connection"),
			fmt.Errorf("ldap://a: %w", ldap.NewError(ldap.ErrorNetwork, errors.New("eof")))},
		false: {ldap.NewError(ldap.LDAPResultBusy, nil), fmt.Errorf("ldap://a: %w", ldap.NewError(ldap.LDAPResultInvalidCredentials, nil))},
	} {
		for _, err := range errs {
			if broken(err) != want {
				t.Errorf("%v: broken is %v", err, !want)
			}
		}
	}
}
