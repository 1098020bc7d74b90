package admin

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"mailferry/backend"
)

// Service is what a node offers. Parts that its roles do not have are nil, and
// asking them is answered with KindUnavailable.
type Service struct {
	Health        func(context.Context) Health
	Users         Users
	Checker       Checker
	Sessions      Sessions
	Routes        Routes
	Migrations    Migrations
	Verifications Verifications
	// Authenticate checks the credentials of an admin on the HTTPS listener.
	Authenticate func(ctx context.Context, user string, password backend.Secret) error
	// Certificate is the name of an admin who has shown a certificate, empty
	// where it is none of an admin's; nil: certificates do not count.
	Certificate func(*tls.ConnectionState) string
	Metrics     prometheus.Gatherer
	Logger      *slog.Logger
}

// maxRequest bounds the body of a request; the largest is a list of users to move.
const maxRequest = 16 << 20

// SocketHandler serves the API and /metrics to whoever may open the socket.
func (s *Service) SocketHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", s.api())
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.Metrics, promhttp.HandlerOpts{}))
	return mux
}

// HTTPSHandler serves /healthz openly, and the API and /metrics to admins.
func (s *Service) HTTPSHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.Handle("/v1/", s.admins(s.api()))
	mux.Handle("GET /metrics", s.admins(promhttp.HandlerFor(s.Metrics, promhttp.HandlerOpts{})))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Strict-Transport-Security", "max-age=63072000")
		mux.ServeHTTP(w, r)
	})
}

// healthz answers 200 or 503 and no details: anybody may ask.
func (s *Service) healthz(w http.ResponseWriter, r *http.Request) {
	if len(s.Health(r.Context()).Problems) > 0 {
		http.Error(w, "not healthy", http.StatusServiceUnavailable)
		return
	}
	_, _ = io.WriteString(w, "ok\n")
}

// admins lets through who has an admin's certificate or password.
func (s *Service) admins(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.Certificate != nil && r.TLS != nil {
			if name := s.Certificate(r.TLS); name != "" {
				s.serveAdmin(next, w, r, name)
				return
			}
		}
		user, password, ok := r.BasicAuth()
		err := backend.NewError(backend.KindAuthentication, "an admin's name and password are needed")
		if ok {
			err = s.Authenticate(r.Context(), user, backend.Secret(password))
		}
		if err != nil {
			if backend.IsKind(err, backend.KindAuthentication) {
				w.Header().Set("WWW-Authenticate", `Basic realm="mailferry", charset="UTF-8"`)
			}
			s.Logger.Info("admin refused", "user", user, "client", r.RemoteAddr, "error", err)
			writeError(w, err)
			return
		}
		s.serveAdmin(next, w, r, user)
	})
}

// serveAdmin notes who changes what.
func (s *Service) serveAdmin(next http.Handler, w http.ResponseWriter, r *http.Request, who string) {
	if r.Method != http.MethodGet {
		s.Logger.Info("admin request", "admin", who, "client", r.RemoteAddr, "method", r.Method, "path", r.URL.Path)
	}
	next.ServeHTTP(w, r)
}

// api is the table of all requests.
func (s *Service) api() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, fn func(*http.Request) (any, error)) { mux.Handle(pattern, answer(fn)) }

	handle("GET /v1/health", func(r *http.Request) (any, error) { return s.Health(r.Context()), nil })
	s.userRequests(handle)
	s.sessionRequests(handle)
	s.otherRequests(handle)
	s.routeRequests(handle)
	s.migrationRequests(handle)
	mux.HandleFunc("GET /v1/migrations/{id}/watch", s.watch)
	mux.HandleFunc("POST /v1/soaks/await", s.awaitOrders)
	mux.HandleFunc("POST /v1/verifications", s.verify)
	mux.HandleFunc("POST /v1/verify-routes", s.verifyRoutes)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, backend.NewError(backend.KindNotFound, "no such request: "+r.Method+" "+r.URL.Path))
	})
	return mux
}

type register func(pattern string, fn func(*http.Request) (any, error))

func (s *Service) userRequests(handle register) {
	users := func(fn func(Users, *http.Request) (any, error)) func(*http.Request) (any, error) {
		return func(r *http.Request) (any, error) {
			if s.Users == nil {
				return nil, missing("store")
			}
			return fn(s.Users, r)
		}
	}
	handle("GET /v1/users", users(func(u Users, r *http.Request) (any, error) { return list(u.ListUsers(r.Context())) }))
	handle("POST /v1/users", users(func(u Users, r *http.Request) (any, error) {
		n, err := body[NewUser](r)
		if err != nil {
			return nil, err
		}
		return u.AddUser(r.Context(), n)
	}))
	handle("GET /v1/users/{name}", users(func(u Users, r *http.Request) (any, error) {
		return u.User(r.Context(), r.PathValue("name"))
	}))
	handle("DELETE /v1/users/{name}", users(func(u Users, r *http.Request) (any, error) {
		return nil, u.DeleteUser(r.Context(), r.PathValue("name"))
	}))
	handle("PUT /v1/users/{name}/password", users(func(u Users, r *http.Request) (any, error) {
		n, err := body[NewUser](r)
		if err != nil {
			return nil, err
		}
		return nil, u.SetPassword(r.Context(), r.PathValue("name"), backend.Secret(n.Password))
	}))
	handle("PUT /v1/users/{name}/disabled", users(func(u Users, r *http.Request) (any, error) {
		n, err := body[User](r)
		if err != nil {
			return nil, err
		}
		return nil, u.SetDisabled(r.Context(), r.PathValue("name"), n.Disabled)
	}))
}

func (s *Service) otherRequests(handle register) {
	handle("GET /v1/fsck", func(r *http.Request) (any, error) {
		if s.Checker == nil {
			return nil, missing("store")
		}
		return list(s.Checker.Check(r.Context(), r.FormValue("bodies") != ""))
	})
}

func missing(role string) error {
	return backend.NewError(backend.KindUnavailable, "this node has not the role "+role)
}

// list makes an empty listing [] rather than null.
func list[T any](l []T, err error) (any, error) {
	if l == nil {
		l = []T{}
	}
	return l, err
}

// answer turns a function into a handler.
func answer(fn func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
		result, err := fn(r)
		if err != nil {
			writeError(w, err)
			return
		}
		if result == nil {
			result = struct{}{}
		}
		w.Header().Set("Content-Type", "application/json")
		if raw, ok := result.(json.RawMessage); ok {
			_, _ = w.Write(raw)
			return
		}
		_ = json.NewEncoder(w).Encode(result) // the client may be gone
	})
}

// body reads a request; a misspelt key is a mistake.
func body[T any](r *http.Request) (v T, err error) {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return v, backend.NewError(backend.KindTooLarge, "the request is too large")
		}
		return v, backend.Errorf(backend.KindInvalid, "the request is not what was expected", "%w", err)
	}
	return v, nil
}
