package remote

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"

	"mailferry/backend"
)

// greetings are how a service that is well begins.
var greetings = map[backend.Protocol][]string{
	backend.IMAP: {"* OK", "* PREAUTH"}, backend.POP3: {"+OK"}, backend.ManageSieve: {`"`, "OK"}, backend.LMTP: {"220"},
}

// Probe reports whether a service greets as it should, and goes away without a
// login. Errors are those of dialling.
func Probe(ctx context.Context, t Target, p backend.Protocol) error {
	conn, err := t.dial(ctx, p)
	if err != nil {
		return err
	}
	defer conn.Close()
	l := newLink(conn, t.timeout())
	defer l.watch(ctx)()
	text, err := bufio.NewReaderSize(l, 1<<10).ReadSlice('\n')
	if err != nil {
		return t.unavailable(p, "greeting", cause(ctx, err))
	}
	for _, g := range greetings[p] {
		if len(text) >= len(g) && strings.EqualFold(string(text[:len(g)]), g) {
			return nil
		}
	}
	return t.unavailable(p, "greeting", fmt.Errorf("%.80q", text))
}

// Stepped reports whether err is about the connection to a store: what the
// store has answered to credentials is not.
func Stepped(err error) bool {
	var e *StepError
	var r *Referral
	return errors.As(err, &e) && !errors.As(err, &r)
}
