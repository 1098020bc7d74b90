package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mailferry/internal/admin"
)

func TestReadUsers(t *testing.T) {
	type each = map[string]admin.MoveOptions
	tests := []struct {
		name, in string
		want     []string
		each     each
	}{
		{"a name a line", "anna@example.org\n\nbob\n", []string{"anna@example.org", "bob"}, nil},
		{"a column among others", "name,User,colour\nAnna,anna,1\nBob,bob,2\n", []string{"anna", "bob"}, nil},
		{"no header", "anna,1\nbob,2\n", []string{"anna", "bob"}, nil},
		{"comments and spaces", "# wave 1\n user \n anna \n", []string{"anna"}, nil},
		{"a mark of the byte order", "\ufeffuser\nanna\n", []string{"anna"}, nil},
		{"nothing", "", nil, nil},
		{"everything", "user,from,to,login,password,priority,not-before,wave\n" +
			"anna,old1,home,anna2,\" a,\"\"b\",5,2026-11-30T22:00:00+01:00,one\nbob,,,,,,,\n", []string{"anna", "bob"},
			each{"anna": {From: "old1", To: "home", Login: "anna2", Password: ` a,"b`, Priority: 5, Wave: "one",
				NotBefore: time.Date(2026, 11, 30, 21, 0, 0, 0, time.UTC)}}},
		{"names of columns with underscores, short lines", "User,NOT_BEFORE,passfile\nanna\nbob,,/etc/bob\n", []string{"anna", "bob"},
			each{"bob": {PasswordFile: "/etc/bob"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, options, err := readUsers(strings.NewReader(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			if tt.each == nil {
				tt.each = each{}
			}
			if diff := cmp.Diff(tt.want, got) + cmp.Diff(tt.each, options); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Every mistake is told with its line.
func TestReadUsersMistakes(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"a number", "user,priority\nanna,1\nbob,high\n", `line 3: priority: "high" is not a whole number`},
		{"a time", "user,not-before\n\n# x\nanna,tomorrow\n", `line 4: not-before: "tomorrow" is neither a date`},
		{"twice", "user\nanna\nbob\nanna\n", `line 4: user "anna" stands in line 2 already`},
		{"several", "user,priority\na,x\nb,1\nc,y\n", "line 2: priority: \"x\" is not a whole number\nline 4"},
		{"nobody", "user,wave\n,1\n", "line 2: no user is named"},
		{"no user", "from,to\nold,new\n", "line 1: no column is called user"},
		{"two of a kind", "user,from,from\n", `line 1: two columns are called "from"`},
		{"quotes", "user\n\"anna\nbob\n", "line 2"},
		{"two passwords", "user,password,passfile\n", "one of them is enough"},
		{"many", "user,priority\n" + strings.Repeat("x,y\n", 50), "and maybe more"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, _, err := readUsers(strings.NewReader(tt.in)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func FuzzReadUsers(f *testing.F) {
	f.Add("user,password,priority\nanna,\"a b\",3\n")
	f.Fuzz(func(t *testing.T, in string) {
		users, each, err := readUsers(strings.NewReader(in))
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, u := range users {
			if u == "" || seen[u] {
				t.Fatalf("users %q", users)
			}
			seen[u] = true
		}
		for u := range each {
			if !seen[u] {
				t.Fatalf("options of %q, who is not named", u)
			}
		}
	})
}
