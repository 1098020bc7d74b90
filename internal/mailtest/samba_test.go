package mailtest

import (
	"testing"

	"github.com/go-ldap/ldap/v3"
)

func TestSamba(t *testing.T) {
	t.Parallel()
	s := StartSamba(t, SambaOptions{Users: []SambaUser{{Name: "anna", Password: "secret"}},
		Groups: []SambaGroup{{Name: "mailers", Members: []string{"anna"}}}})
	s.Add(t, SambaUser{Name: "bernd", Password: "secret2"})
	s.SetAttr(t, "anna", "mail", "anna@example.org")
	s.Stop()
	s.Start(t)
	s.Delete(t, "bernd")
	c := s.Admin(t)
	defer c.Close()
	res, err := c.Search(ldap.NewSearchRequest(s.Base, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases, 0, 0, false,
		"(&(objectClass=user)(mail=anna@example.org))", []string{"memberOf"}, nil))
	if err != nil || len(res.Entries) != 1 || res.Entries[0].GetAttributeValue("memberOf") != s.DN("mailers") {
		t.Fatalf("%+v, %v", res, err)
	}
	if err := c.Bind(s.Domain+`\anna`, "secret"); err != nil {
		t.Error(err)
	}
}
