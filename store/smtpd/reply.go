package smtpd

import (
	"errors"
	"fmt"

	"github.com/emersion/go-smtp"

	"mailferry/backend"
)

// Delivered is the reply for a recipient whose copy is durable.
var Delivered = &smtp.SMTPError{Code: 250, EnhancedCode: smtp.EnhancedCode{2, 1, 5}, Message: "Delivered"}

// Reply maps an error to the reply that the peer gets (RFC 5321 4.2, RFC 3463);
// nil stays nil. What is not known to be final is temporary: the peer keeps the
// mail and tries again.
func Reply(err error) error {
	if err == nil {
		return nil
	}
	var done *smtp.SMTPError
	if errors.As(err, &done) {
		return done
	}
	if errors.Is(err, smtp.ErrTooLongLine) {
		return reply(554, 5, 6, 0, "line too long")
	}
	text := backend.UserText(err)
	switch backend.KindOf(err) {
	case backend.KindNotFound:
		return reply(550, 5, 1, 1, "no such user here")
	case backend.KindPermission:
		return reply(550, 5, 2, 1, text)
	case backend.KindAuthentication:
		return reply(535, 5, 7, 8, "authentication failed")
	case backend.KindOverQuota:
		return reply(452, 4, 2, 2, text)
	case backend.KindTooLarge:
		return reply(552, 5, 3, 4, text)
	case backend.KindInvalid:
		return reply(554, 5, 6, 0, text)
	case backend.KindTemporary:
		return reply(451, 4, 2, 1, text)
	case backend.KindUnavailable:
		return reply(451, 4, 3, 2, text)
	default:
		return reply(451, 4, 3, 0, "internal error, try again later")
	}
}

func reply(code, class, subject, detail int, text string) error {
	return &smtp.SMTPError{Code: code, EnhancedCode: smtp.EnhancedCode{class, subject, detail}, Message: text}
}

// Status is the enhanced status code of an error (RFC 3463).
func Status(err error) string {
	r, ok := Reply(err).(*smtp.SMTPError)
	if !ok {
		return "2.0.0"
	}
	return fmt.Sprintf("%d.%d.%d", r.EnhancedCode[0], r.EnhancedCode[1], r.EnhancedCode[2])
}
