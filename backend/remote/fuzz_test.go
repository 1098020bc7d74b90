package remote

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"mailferry/backend"
	"mailferry/internal/line"
)

// FuzzHostileStores: whatever a store says before login, dialling it ends,
// within bounds, and never with a bug of ours.
func FuzzHostileStores(f *testing.F) {
	for _, s := range []string{"+OK hi\r\n+OK\r\n+OK in\r\n", "-ERR [REFERRAL pop://x] no\r\n", "\"SASL\" \"PLAIN\"\r\nOK\r\nOK in\r\n",
		"\"SASL\" \"PLAIN\"\r\nOK\r\n\"Y2hhbGxlbmdl\"\r\nNO (REFERRAL \"sieve://x\") \"a\"\r\n", "{4}\r\nSASL {5}\r\nPLAIN\r\nOK\r\n", "* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] hi\r\nmf1 OK in\r\n",
		"* BYE [UNAVAILABLE] x\r\n", "* OK hi\r\n* CAPABILITY AUTH=XOAUTH2\r\nmf1 OK\r\n+ \r\nmf2 NO [REFERRAL imap://x/] y\r\n", "220 x\r\n250-x\r\n250 STARTTLS\r\n220 go\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, says []byte) {
		for _, token := range []bool{false, true} {
			target := Target{Store: &backend.Store{Name: "x", Address: "x", TLS: backend.TLSNone}, User: "anna", Password: "secret", Token: token,
				Timeout: 5 * time.Second, Dial: func(context.Context, string, string) (net.Conn, error) {
					ours, theirs := line.Pipe()
					go func() {
						_, _ = theirs.Write(says)
						_ = theirs.CloseWrite()
						_, _ = io.Copy(io.Discard, theirs)
						theirs.Close()
					}()
					return ours, nil
				}}
			for _, dial := range []func(context.Context, Target) (io.Closer, error){
				func(ctx context.Context, t Target) (io.Closer, error) { return closer(DialIMAP(ctx, t)) },
				func(ctx context.Context, t Target) (io.Closer, error) { return closer(DialPOP3(ctx, t)) },
				func(ctx context.Context, t Target) (io.Closer, error) { return closer(DialManageSieve(ctx, t)) },
			} {
				c, err := dial(t.Context(), target)
				if err == nil {
					c.Close()
				} else if backend.KindOf(err) == backend.KindBug {
					t.Errorf("%q: %v", says, err)
				}
			}
			for _, p := range []backend.Protocol{backend.IMAP, backend.POP3, backend.ManageSieve, backend.LMTP} {
				if err := Probe(t.Context(), target, p); err != nil && !backend.IsKind(err, backend.KindUnavailable) {
					t.Errorf("%q: %v", says, err)
				}
			}
		}
	})
}

func closer[T io.Closer](c T, err error) (io.Closer, error) { return c, err }
