package main

import (
	"slices"
	"strings"
	"testing"

	"mailferry/internal/app"
)

func TestReadAccounts(t *testing.T) {
	def := app.CopyAccount{FromPassword: "f", ToPassword: "t"}
	for in, want := range map[string]app.CopyAccount{
		"anna\n":                        {From: "anna", To: "anna", FromPassword: "f", ToPassword: "t"},
		"anna;a;bert;b\n":               {From: "anna", To: "bert", FromPassword: "a", ToPassword: "b"},
		"user1,user2\nanna,bert\n":      {From: "anna", To: "bert", FromPassword: "f", ToPassword: "t"},
		"User2;User1\n# x\nbert;anna\n": {From: "anna", To: "bert", FromPassword: "f", ToPassword: "t"},
	} {
		if got, err := readAccounts(strings.NewReader(in), def); err != nil || !slices.Equal(got, []app.CopyAccount{want}) {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
	if got, err := readAccounts(strings.NewReader("user1,pasword1\na,b\n"), def); err == nil {
		t.Errorf("an unknown column is taken: %+v", got)
	}
}
