package store

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"

	"github.com/go-crypt/crypt"
	"github.com/go-crypt/crypt/algorithm/md5crypt"
	"github.com/go-crypt/crypt/algorithm/sha1crypt"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"

	"mailferry/backend"
)

// Cost of a new hash: the second of OWASP's equal choices for argon2id (19 MiB,
// two passes, one lane), about 20 ms of one core.
const (
	argonMemory = 19 << 10 // KiB
	argonPasses = 2
	argonLanes  = 1
	argonKey    = 32
	argonSalt   = 16
	// maxPassword keeps a client from making us hash megabytes.
	maxPassword = 4096
)

// hashing bounds hash work to one per core: more at once would only cost
// memory and delay everybody else.
var hashing = make(chan struct{}, runtime.GOMAXPROCS(0))

// HashPassword returns the argon2id hash of p in PHC form. KindInvalid: empty
// or absurdly long.
func HashPassword(p backend.Secret) (string, error) {
	if p == "" || len(p) > maxPassword {
		return "", backend.NewError(backend.KindInvalid, "password is empty or too long")
	}
	salt := make([]byte, argonSalt)
	rand.Read(salt)
	hashing <- struct{}{}
	defer func() { <-hashing }()
	key := argon2.IDKey([]byte(p.Reveal()), salt, argonPasses, argonMemory, argonLanes, argonKey)
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonPasses, argonLanes,
		b64.EncodeToString(salt), b64.EncodeToString(key)), nil
}

// CheckPassword compares p with a hash in PHC or crypt form: argon2, bcrypt,
// scrypt, PBKDF2, SHA-crypt, MD5-crypt, with or without a {SCHEME} of its kind
// in front. An empty hash or password never matches.
func CheckPassword(hash string, p backend.Secret) bool {
	if hash == "" || p == "" || len(p) > maxPassword {
		return false
	}
	if i := strings.IndexByte(hash, '}'); hash[0] == '{' && i > 0 {
		hash = hash[i+1:] // {CRYPT}, {ARGON2ID}, {BLF-CRYPT}: the rest says it again
	}
	hashing <- struct{}{}
	defer func() { <-hashing }()
	if strings.HasPrefix(hash, "$2") {
		return bcrypt.CompareHashAndPassword([]byte(hash), []byte(p.Reveal())) == nil
	}
	decoder, err := hashDecoder()
	if err != nil {
		return false
	}
	digest, err := decoder.Decode(hash)
	if err != nil {
		return false
	}
	return digest.Match(p.Reveal())
}

// hashDecoder knows every scheme of go-crypt but plain text.
var hashDecoder = sync.OnceValues(func() (*crypt.Decoder, error) {
	d, err := crypt.NewDefaultDecoder()
	if err != nil {
		return nil, err
	}
	return d, errors.Join(md5crypt.RegisterDecoder(d), sha1crypt.RegisterDecoder(d))
})

// decoyHash costs an unknown user's login as much as a known one's.
var decoyHash = sync.OnceValue(func() string {
	h, _ := HashPassword("decoy")
	return h
})

// Authenticate checks a name and password and returns the user.
// KindAuthentication: wrong in any way, disabled or without a password
// included. KindUnavailable: it cannot be told.
func (s *Store) Authenticate(ctx context.Context, name string, p backend.Secret) (User, error) {
	u, err := s.User(ctx, name)
	if err != nil && !backend.IsKind(err, backend.KindNotFound) {
		return User{}, err
	}
	hash := u.PasswordHash
	if hash == "" {
		hash = decoyHash()
	}
	if !CheckPassword(hash, p) || u.PasswordHash == "" || u.Disabled || u.State == UserDeleting {
		return User{}, backend.NewError(backend.KindAuthentication, "")
	}
	return u, nil
}
