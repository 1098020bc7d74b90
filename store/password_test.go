package store_test

import (
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"mailferry/backend"
	"mailferry/store"
)

func TestPasswords(t *testing.T) {
	hash, err := store.HashPassword("sesam öffne dich")
	if err != nil || !strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Fatal(hash, err)
	}
	blowfish, err := bcrypt.GenerateFromPassword([]byte("Hello world!"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, hash, password string
		want                 bool
	}{
		{"own", hash, "sesam öffne dich", true},
		{"own, wrong", hash, "sesam", false},
		{"scheme in front", "{ARGON2ID}" + hash, "sesam öffne dich", true},
		{"bcrypt", string(blowfish), "Hello world!", true},
		{"bcrypt, wrong", "{BLF-CRYPT}" + string(blowfish), "wrong", false},
		{"sha512", "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1", "Hello world!", true},
		{"sha512, wrong", "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1", "hello world!", false},
		{"sha256", "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5", "Hello world!", true},
		{"md5", "$1$abcd$zfK/3U74e8Vhq.QQPIM8g0", "Hello world!", true},
		{"plain text is no hash", "secret", "secret", false},
		{"plain text scheme", "{PLAIN}secret", "secret", false},
		{"plain text prefix", "$plaintext$secret", "secret", false},
		{"no hash", "", "secret", false},
		{"empty password", hash, "", false},
		{"too long", hash, strings.Repeat("x", 10_000), false},
	}
	for _, tc := range tests {
		if got := store.CheckPassword(tc.hash, backend.Secret(tc.password)); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

func TestAuthenticate(t *testing.T) {
	s := newStore(t, memoryEngine(t))
	hash, _ := store.HashPassword("secret")
	if _, err := s.CreateUser(t.Context(), store.NewUser{Name: "anna", PasswordHash: hash, Aliases: []string{"a@x"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateUser(t.Context(), store.NewUser{Name: "moved"}); err != nil {
		t.Fatal(err)
	}
	if u, err := s.Authenticate(t.Context(), "A@X", "secret"); err != nil || u.Name != "anna" {
		t.Error(u, err)
	}
	for name, password := range map[string]backend.Secret{"anna": "wrong", "nobody": "secret", "moved": "decoy", "": ""} {
		_, err := s.Authenticate(t.Context(), name, password)
		wantKind(t, err, backend.KindAuthentication)
	}
	if _, err := s.UpdateUser(t.Context(), "anna", func(u *store.User) error { u.Disabled = true; return nil }); err != nil {
		t.Fatal(err)
	}
	_, err := s.Authenticate(t.Context(), "anna", "secret")
	wantKind(t, err, backend.KindAuthentication)
}
