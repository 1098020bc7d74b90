package migrate

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"mailferry/backend"
)

// UserOptions are what a batch says of one user alone; zero values leave it to
// the batch.
type UserOptions struct {
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
	// Login is the user's name at the old store, where it differs.
	Login string `json:"login,omitempty"`
	// Password is the user's own at the old store, for stores without an
	// admin's login; it is kept apart from the journal while the batch runs.
	Password backend.Secret `json:"-"`
	// PasswordFile is read at each login instead.
	PasswordFile string `json:"password_file,omitempty"`
	Priority     int    `json:"priority,omitempty"` // higher ones first
	// LastLogin and Size (octets) are for an Order that goes by them; zero: not known.
	LastLogin time.Time `json:"last_login,omitzero"`
	Size      int64     `json:"size,omitempty"`
	NotBefore time.Time `json:"not_before,omitzero"`
	Wave      string    `json:"wave,omitempty"`
}

// of is what a batch says of a user, its own stores filled in.
func (s *BatchSpec) of(user string) UserOptions {
	o := s.Each[user]
	o.From, o.To = cmp.Or(o.From, s.From), cmp.Or(o.To, s.To)
	return o
}

// sources are the stores that the batch names as old ones.
func (s *BatchSpec) sources() (names []string) {
	for _, u := range s.Users {
		if from := s.of(u).From; from != "" && !slices.Contains(names, from) {
			names = append(names, from)
		}
	}
	return names
}

// Order says who comes first; it is empty for the order in which users are named.
type Order string

// OrderCSV is as they are named; OrderName by name; OrderSize the smallest first,
// so that most users have moved soon; OrderLastLogin those who logged in last
// first. Users of whom size or login is not known come behind, as they are named.
const (
	OrderCSV       Order = "csv"
	OrderName      Order = "name"
	OrderSize      Order = "size"
	OrderLastLogin Order = "last-login"
)

// Valid reports whether o is one of them, or empty.
func (o Order) Valid() bool {
	return o == "" || o == OrderCSV || o == OrderName || o == OrderSize || o == OrderLastLogin
}

// LastLogin is the last login of a user that is known; zero: none is.
func (s *BatchSpec) LastLogin(user string) time.Time {
	at := s.Each[user].LastLogin
	if s.SeenAt != nil {
		if seen := s.SeenAt(user); seen.After(at) {
			at = seen
		}
	}
	return at
}

// compare orders two users; 0: they stay as they were named. logins are their last ones.
func (s *BatchSpec) compare(a, b string, logins map[string]time.Time) int {
	x, y := s.Each[a], s.Each[b]
	switch s.Order {
	case OrderName:
		return cmp.Compare(a, b)
	case OrderSize:
		return cmp.Or(unknownLast(x.Size == 0, y.Size == 0), cmp.Compare(x.Size, y.Size))
	case OrderLastLogin:
		return logins[b].Compare(logins[a]) // the zero time is long ago
	}
	return 0
}

func unknownLast(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// order sorts the users by priority, then by Order; equal ones stay as they were
// named.
func (s *BatchSpec) order() {
	var logins map[string]time.Time
	if s.Order == OrderLastLogin { // asked once: users log in meanwhile
		logins = make(map[string]time.Time, len(s.Users))
		for _, u := range s.Users {
			if at := s.LastLogin(u); !at.IsZero() {
				logins[u] = at
			}
		}
	}
	if len(s.Each) > 0 || s.Order != "" {
		slices.SortStableFunc(s.Users, func(a, b string) int {
			return cmp.Or(cmp.Compare(s.Each[b].Priority, s.Each[a].Priority), s.compare(a, b, logins))
		})
	}
}

// InOrder is the users in the order in which they move: by priority, then by Order.
func (s *BatchSpec) InOrder() []string {
	s.order()
	return s.Users
}

// Target is the store to which a user moves.
func (s *BatchSpec) Target(user string) string { return s.of(user).To }

// wave is a part of a batch that begins when the one before it is done.
type wave struct {
	name  string
	users []string
}

// waves cuts the users into waves: by their names, in the order in which the
// batch names them, and these by size. Users without a name come last.
func (s *BatchSpec) waves() []wave {
	var named []wave
	index := map[string]int{}
	for _, u := range s.Users {
		name := s.Each[u].Wave
		i, ok := index[name]
		if !ok {
			i = len(named)
			index[name], named = i, append(named, wave{name: name})
		}
		named[i].users = append(named[i].users, u)
	}
	if i, ok := index[""]; ok && len(named) > 1 {
		rest := named[i]
		named = append(slices.Delete(named, i, i+1), rest)
	}
	if s.WaveSize <= 0 {
		return named
	}
	var out []wave
	for _, w := range named {
		for part := range slices.Chunk(w.users, s.WaveSize) {
			out = append(out, wave{name: w.name, users: part})
		}
	}
	return out
}

// StopRule says how many failures of a wave halt the batch. The zero value: none
// do. Its text is "10" (the tenth failure halts) or "5%" (as soon as more than so
// many of the wave's users have failed).
type StopRule struct {
	Count   int
	Percent float64
}

// ParseStopRule reads the text form.
func ParseStopRule(s string) (r StopRule, err error) {
	if s == "" {
		return r, nil
	}
	if p, ok := strings.CutSuffix(s, "%"); ok {
		r.Percent, err = strconv.ParseFloat(p, 64)
		if err != nil || !(r.Percent >= 0.001 && r.Percent < 100) {
			return StopRule{}, fmt.Errorf("%q is no share of failures: write 5%%", s)
		}
		return r, nil
	}
	if r.Count, err = strconv.Atoi(s); err != nil || r.Count < 1 {
		return StopRule{}, fmt.Errorf("%q is no number of failures: write 10, or 5%%", s)
	}
	return r, nil
}

// halts reports whether so many failures among so many users are too many.
func (r StopRule) halts(failed, users int) bool {
	return r.Count > 0 && failed >= r.Count || r.Percent > 0 && float64(failed)*100 > r.Percent*float64(users)
}

// String is the text form.
func (r StopRule) String() string {
	switch {
	case r.Count > 0:
		return strconv.Itoa(r.Count)
	case r.Percent > 0:
		return strconv.FormatFloat(r.Percent, 'f', -1, 64) + "%"
	}
	return ""
}

// MarshalText writes the text form.
func (r StopRule) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads it.
func (r *StopRule) UnmarshalText(b []byte) (err error) {
	*r, err = ParseStopRule(string(b))
	return err
}
