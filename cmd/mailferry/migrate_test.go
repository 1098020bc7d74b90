package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReadUsers(t *testing.T) {
	tests := []struct {
		name, in string
		want     []string
	}{
		{"a name a line", "anna@example.org\n\nbob\n", []string{"anna@example.org", "bob"}},
		{"a column among others", "name,User,wave\nAnna,anna,1\nBob,bob,2\n", []string{"anna", "bob"}},
		{"no header", "anna,1\nbob,2\n", []string{"anna", "bob"}},
		{"comments and spaces", "# wave 1\n user \n anna \n", []string{"anna"}},
		{"nothing", "", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := readUsers(strings.NewReader(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
