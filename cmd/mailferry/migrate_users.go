package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"mailferry/internal/admin"
	"mailferry/internal/config"
)

// columns of a file of users; each takes a cell that is not empty.
var columns = map[string]func(o *admin.MoveOptions, cell string) error{
	"user":     nil,
	"from":     func(o *admin.MoveOptions, s string) error { o.From = s; return nil },
	"to":       func(o *admin.MoveOptions, s string) error { o.To = s; return nil },
	"login":    func(o *admin.MoveOptions, s string) error { o.Login = s; return nil },
	"password": func(o *admin.MoveOptions, s string) error { o.Password = s; return nil },
	"passfile": func(o *admin.MoveOptions, s string) error { o.PasswordFile = s; return nil },
	"wave":     func(o *admin.MoveOptions, s string) error { o.Wave = s; return nil },
	"priority": func(o *admin.MoveOptions, s string) (err error) {
		if o.Priority, err = strconv.Atoi(s); err != nil {
			err = fmt.Errorf("%q is not a whole number", s)
		}
		return err
	},
	"not-before": func(o *admin.MoveOptions, s string) (err error) { o.NotBefore, err = moment(s); return err },
	"last-login": func(o *admin.MoveOptions, s string) (err error) { o.LastLogin, err = moment(s); return err },
	"size": func(o *admin.MoveOptions, s string) error {
		n, err := config.ParseSize(s)
		o.Size = int64(n)
		return err
	},
}

// moment is a date, or a time.
func moment(s string) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	t, err := time.ParseInLocation(time.DateOnly, s, time.Local)
	if err != nil {
		err = fmt.Errorf("%q is neither a date (2026-11-30) nor a time (2026-11-30T22:00:00+01:00)", s)
	}
	return t, err
}

// maxMistakes of a file are told at once.
const maxMistakes = 20

// readUsers reads a CSV file whose first line names columns, or one name a line.
// Columns that it does not know are left out. Every mistake is told with its line.
func readUsers(in io.Reader) (users []string, each map[string]admin.MoveOptions, err error) {
	r := csv.NewReader(in)
	r.FieldsPerRecord, r.TrimLeadingSpace, r.Comment, r.ReuseRecord = -1, true, '#', true
	var names []string
	var mistakes []error
	seen := map[string]int{}
	each = map[string]admin.MoveOptions{}
	for first := true; ; first = false {
		record, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, nil, err // names the line
		}
		line, _ := r.FieldPos(0)
		if first {
			if names, err = header(record); err != nil {
				return nil, nil, fmt.Errorf("line %d: %w", line, err)
			}
			if names != nil {
				continue
			}
			names = []string{"user"}
		}
		user, o, err := readUser(names, record)
		switch {
		case err != nil:
		case seen[user] > 0:
			err = fmt.Errorf("user %q stands in line %d already", user, seen[user])
		case user != "":
			seen[user] = line
			users = append(users, user)
			if o != (admin.MoveOptions{}) {
				each[user] = o
			}
		}
		if err != nil {
			mistakes = append(mistakes, fmt.Errorf("line %d: %w", line, err))
		}
		if len(mistakes) == maxMistakes {
			mistakes = append(mistakes, errors.New("and maybe more"))
			break
		}
	}
	return users, each, errors.Join(mistakes...)
}

// header recognises a first line that names columns; nil: it does not. A name
// that is nearly a column's is a mistake, other columns are somebody else's.
func header(record []string) ([]string, error) {
	names := make([]string, len(record))
	found := map[string]bool{}
	for i, cell := range record {
		name := strings.ToLower(strings.TrimSpace(strings.TrimPrefix(cell, "\ufeff")))
		name = strings.NewReplacer("_", "-", " ", "-").Replace(name)
		if _, ok := columns[name]; !ok {
			continue
		}
		if found[name] {
			return nil, fmt.Errorf("two columns are called %q", name)
		}
		names[i], found[name] = name, true
	}
	if !found["user"] {
		if len(found) > 0 && len(record) > 1 && len(found) == len(record) {
			return nil, errors.New("no column is called user")
		}
		return nil, nil
	}
	if found["password"] && found["passfile"] {
		return nil, errors.New("password and passfile: one of them is enough")
	}
	return names, nil
}

// readUser reads a line; it names no user when it is empty.
func readUser(names, record []string) (user string, o admin.MoveOptions, err error) {
	filled := false
	for i, cell := range record {
		if i >= len(names) || names[i] == "" {
			continue
		}
		if names[i] != "password" { // blanks may be part of it
			cell = strings.TrimSpace(cell)
		}
		switch {
		case cell == "":
		case names[i] == "user":
			user = strings.Clone(cell)
		default:
			filled = true
			if err := columns[names[i]](&o, strings.Clone(cell)); err != nil {
				return "", o, fmt.Errorf("%s: %w", names[i], err)
			}
		}
	}
	if user == "" && filled {
		return "", o, errors.New("no user is named")
	}
	return user, o, nil
}
