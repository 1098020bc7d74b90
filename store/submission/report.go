package submission

import (
	"fmt"
	"strings"
	"time"

	"mailferry/backend"
	"mailferry/store/smtpd"
)

// failure is a recipient who did not get the mail.
type failure struct {
	address string
	err     error
}

// reportText is a delivery status notification (RFC 3464).
func reportText(domain, to, id string, failed []failure, now time.Time) string {
	boundary := "report-" + smtpd.NewID()
	date := now.Format("Mon, 2 Jan 2006 15:04:05 -0700")
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\r\n", args...) }
	line("From: Mail Delivery System <postmaster@%s>", domain)
	line("To: <%s>", to)
	line("Date: %s", date)
	line("Message-ID: <%s@%s>", smtpd.NewID(), domain)
	line("Subject: Undelivered mail")
	line("Auto-Submitted: auto-replied")
	line("MIME-Version: 1.0")
	line("Content-Type: multipart/report; report-type=delivery-status; boundary=%q", boundary)
	line("")
	line("--%s\r\nContent-Type: text/plain; charset=utf-8\r\n", boundary)
	line("Your mail (%s) did not reach these recipients; the others have it:", id)
	line("")
	for _, f := range failed {
		line("<%s>: %s", f.address, backend.UserText(f.err))
	}
	line("\r\n--%s\r\nContent-Type: message/delivery-status\r\n", boundary)
	line("Reporting-MTA: dns; %s", domain)
	line("Arrival-Date: %s", date)
	for _, f := range failed {
		line("\r\nFinal-Recipient: rfc822; %s\r\nAction: failed\r\nStatus: %s", f.address, smtpd.Status(f.err))
	}
	line("\r\n--%s--", boundary)
	return b.String()
}
