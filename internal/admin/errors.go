package admin

import (
	"encoding/json"
	"net/http"

	"mailferry/backend"
)

// apiError is an error on the wire. Admins are told the cause: they are the
// ones who can act on it.
type apiError struct {
	Text string `json:"error"`
	Kind string `json:"kind"`
	Hint string `json:"hint,omitempty"`
}

// Hinted is an error that says what to try next.
type Hinted struct {
	Err  error
	Hint string
}

func (h *Hinted) Error() string { return h.Err.Error() }
func (h *Hinted) Unwrap() error { return h.Err }

// kinds in both directions; the names are those of backend.Kind.
var kinds = []backend.Kind{backend.KindBug, backend.KindInvalid, backend.KindNotFound, backend.KindExists, backend.KindPermission,
	backend.KindAuthentication, backend.KindOverQuota, backend.KindTooLarge, backend.KindConflict, backend.KindTemporary,
	backend.KindUnavailable}

func kindNamed(name string) backend.Kind {
	for _, k := range kinds {
		if k.String() == name {
			return k
		}
	}
	return backend.KindBug
}

// statusOf maps kinds to HTTP.
func statusOf(k backend.Kind) int {
	switch k {
	case backend.KindInvalid:
		return http.StatusBadRequest
	case backend.KindNotFound:
		return http.StatusNotFound
	case backend.KindExists, backend.KindConflict:
		return http.StatusConflict
	case backend.KindPermission:
		return http.StatusForbidden
	case backend.KindAuthentication:
		return http.StatusUnauthorized
	case backend.KindOverQuota, backend.KindTooLarge:
		return http.StatusRequestEntityTooLarge
	case backend.KindTemporary, backend.KindUnavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

func writeError(w http.ResponseWriter, err error) {
	kind := backend.KindOf(err)
	e := apiError{Text: err.Error(), Kind: kind.String(), Hint: HintOf(err)}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(statusOf(kind))
	_ = json.NewEncoder(w).Encode(e) // the client may be gone
}
