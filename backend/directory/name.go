package directory

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"mailferry/backend"
)

// maxName bounds a login name or address: an RFC 5321 path has at most 254
// octets, and no directory needs more.
const maxName = 254

// validName reports whether name may be looked up at all. Directories ignore
// insignificant space (RFC 4518, 2.6) where we do not, so names with space at
// an end or doubled are nobody's.
func validName(name string) bool {
	if name == "" || len(name) > maxName || !utf8.ValidString(name) || strings.TrimSpace(name) != name {
		return false
	}
	space := false
	for _, r := range name {
		if unicode.IsControl(r) {
			return false
		}
		if s := unicode.IsSpace(r); s && space {
			return false
		} else {
			space = s
		}
	}
	return true
}

// splitName cuts a name into local part and domain at the last "@".
func splitName(name string) (local, domain string) {
	if i := strings.LastIndexByte(name, '@'); i >= 0 {
		return name[:i], name[i+1:]
	}
	return name, ""
}

func notFound(directory, name string) error {
	return backend.Errorf(backend.KindNotFound, "", "directory %s: no user %q", directory, name)
}

func wrongPassword(directory, user string) error {
	return backend.Errorf(backend.KindAuthentication, "", "directory %s: wrong password for %q", directory, user)
}
