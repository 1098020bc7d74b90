package directory

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"hash"
	"strings"
	"sync"

	"github.com/go-crypt/crypt"
	"golang.org/x/crypto/bcrypt"

	"mailferry/backend"
)

// verifyHash compares a password with a stored hash: "$id$..." as crypt(3),
// bcrypt and argon2 write it, {CRYPT} and {PLAIN}, and LDAP's salted {SSHA},
// {SSHA256}, {SSHA512} and unsalted {SHA}. An unknown form or "*" and "!" fit
// no password.
func verifyHash(stored string, password backend.Secret) bool {
	scheme, rest, ok := strings.Cut(strings.TrimPrefix(stored, "{"), "}")
	if !strings.HasPrefix(stored, "{") || !ok {
		scheme, rest = "CRYPT", stored
	}
	switch strings.ToUpper(scheme) {
	case "PLAIN", "CLEARTEXT":
		return subtle.ConstantTimeCompare([]byte(rest), []byte(password.Reveal())) == 1
	case "SHA", "SSHA":
		return verifyDigest(sha1.New(), rest, password)
	case "SSHA256":
		return verifyDigest(sha256.New(), rest, password)
	case "SSHA512":
		return verifyDigest(sha512.New(), rest, password)
	case "CRYPT", "BLF-CRYPT", "ARGON2ID", "SHA512-CRYPT", "SHA256-CRYPT":
		return verifyCrypt(rest, password)
	}
	return false
}

func verifyDigest(h hash.Hash, encoded string, password backend.Secret) bool {
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(raw) < h.Size() {
		return false
	}
	h.Write([]byte(password.Reveal()))
	h.Write(raw[h.Size():])
	return subtle.ConstantTimeCompare(h.Sum(nil), raw[:h.Size()]) == 1
}

var decoder = sync.OnceValue(func() *crypt.Decoder {
	d, err := crypt.NewDecoderAll()
	if err != nil {
		return nil
	}
	return d
})

func verifyCrypt(stored string, password backend.Secret) bool {
	if strings.HasPrefix(stored, "$2") {
		return bcrypt.CompareHashAndPassword([]byte(stored), []byte(password.Reveal())) == nil
	}
	if !strings.HasPrefix(stored, "$") || decoder() == nil {
		return false
	}
	digest, err := decoder().Decode(stored)
	if err != nil {
		return false
	}
	ok, err := digest.MatchAdvanced(password.Reveal())
	return err == nil && ok
}

// dummy is hashed once; its cost is bcrypt's default.
var dummy = sync.OnceValue(func() []byte {
	h, _ := bcrypt.GenerateFromPassword([]byte("nobody"), bcrypt.DefaultCost)
	return h
})

// dummyHash spends the time of one verification.
func dummyHash(password backend.Secret) {
	_ = bcrypt.CompareHashAndPassword(dummy(), []byte(password.Reveal()))
}
