package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"mailferry/backend"
	"mailferry/internal/admin"
)

// passwordFlags say where a password comes from. There is no flag for the
// password itself: other users could read it in the list of processes.
type passwordFlags struct{ stdin, none bool }

func (f *passwordFlags) register(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.stdin, "password-stdin", false, "read the password from standard input (one line)")
}

func (c *cli) password(f passwordFlags, user string) (backend.Secret, error) {
	switch {
	case f.none && f.stdin:
		return "", usagef("--no-password and --password-stdin exclude each other")
	case f.none:
		return "", nil
	case f.stdin:
		line, err := bufio.NewReader(c.stdin).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		return checked(strings.TrimRight(line, "\r\n"))
	case !term.IsTerminal(int(c.stdin.Fd())):
		return "", usageError{admin.WithHint(errors.New("nobody is there to be asked for a password"), "pipe it in with --password-stdin")}
	}
	first, err := c.prompt("Password of " + user + ": ")
	if err != nil {
		return "", err
	}
	again, err := c.prompt("Once more: ")
	if err != nil {
		return "", err
	}
	if first != again {
		return "", usagef("the passwords differ")
	}
	return checked(first)
}

func checked(password string) (backend.Secret, error) {
	if password == "" {
		return "", usagef("the password is empty")
	}
	return backend.Secret(password), nil
}

func (c *cli) prompt(text string) (string, error) {
	fmt.Fprint(c.stderr, text)
	line, err := term.ReadPassword(int(c.stdin.Fd()))
	fmt.Fprintln(c.stderr)
	return string(line), err
}
