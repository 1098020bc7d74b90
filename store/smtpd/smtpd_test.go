package smtpd_test

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"mailferry/backend"
	"mailferry/store/smtpd"
)

func TestReply(t *testing.T) {
	tests := []struct {
		err  error
		code int
		enh  string
	}{
		{backend.NewError(backend.KindNotFound, ""), 550, "5.1.1"},
		{backend.NewError(backend.KindTemporary, ""), 451, "4.2.1"},
		{backend.NewError(backend.KindUnavailable, ""), 451, "4.3.2"},
		{backend.NewError(backend.KindOverQuota, ""), 452, "4.2.2"},
		{errors.New("no kind at all"), 451, "4.3.0"},
		{fmt.Errorf("data: %w", smtp.ErrDataTooLarge), 552, "5.3.4"},
	}
	for _, tc := range tests {
		var got *smtp.SMTPError
		if !errors.As(smtpd.Reply(tc.err), &got) || got.Code != tc.code || smtpd.Status(tc.err) != tc.enh {
			t.Errorf("%v: %+v %s, want %d %s", tc.err, got, smtpd.Status(tc.err), tc.code, tc.enh)
		}
	}
	if smtpd.Reply(nil) != nil {
		t.Error("no error has a reply")
	}
}

// TestReceivedCannotBeBroken: what a peer calls itself ends neither the field
// nor its comment.
func TestReceivedCannotBeBroken(t *testing.T) {
	trace := smtpd.Trace{Helo: "a)\r\nX: y (", Peer: &net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 1}, Domain: "mx",
		With: "LMTP", Recipient: "b>\r\n", ID: "i", Time: time.Date(2026, 3, 1, 2, 3, 4, 0, time.FixedZone("", 3600))}
	want := "Received: from aX:y ([IPv6:2001:db8::1])\r\n\tby mx with LMTP id i\r\n\tfor <b>;\r\n\tSun, 1 Mar 2026 02:03:04 +0100\r\n"
	if got := trace.Received(); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	inner := smtpd.Trace{Domain: "mx", With: "LMTP", ID: "i", Time: trace.Time}
	want = "Received: by mx with LMTP id i;\r\n\tSun, 1 Mar 2026 02:03:04 +0100\r\n"
	if got := inner.Received(); got != want {
		t.Errorf("a step within: got %q, want %q", got, want)
	}
}
