package migrate

import (
	"regexp"
	"strconv"
	"time"

	"mailferry/backend"
)

// Stores say in many ways that they have no room: by the codes of RFC 5530 and
// RFC 9051, and in words. Exchange logs a user in and then answers as the last one.
var (
	refusalCodes = regexp.MustCompile(`\[(THROTTLED|LIMIT|INUSE|UNAVAILABLE)\b`)
	refusalWords = regexp.MustCompile(`(?i)too many|maximum number of connections|connection limit|rate limit|throttl|` +
		`try again later|temporarily|server busy|Backoff Time|authenticated but not connected`)
	// backoffTime: milliseconds, as Exchange Online writes it.
	backoffTime = regexp.MustCompile(`(?i)Backoff Time:?\s*(\d{1,9})(?:\s*(milliseconds|ms|seconds|s)\b)?`)
)

// refusal tells a want of room from a fault of the user's account: whether err is
// one, and how long the host asks to be left alone. others: the host serves other
// connections of ours, so that one which is cut off was refused.
func refusal(err error, others bool) (room bool, asked time.Duration) {
	if err == nil {
		return false, 0
	}
	text := err.Error()
	if m := backoffTime.FindStringSubmatch(text); m != nil {
		n, _ := strconv.Atoi(m[1]) // nine digits at most
		unit := time.Millisecond
		if m[2] == "s" || m[2] == "seconds" {
			unit = time.Second
		}
		return true, time.Duration(n) * unit
	}
	switch backend.KindOf(err) {
	case backend.KindAuthentication, backend.KindTemporary:
		return refusalCodes.MatchString(text) || refusalWords.MatchString(text), 0
	case backend.KindUnavailable:
		return others || refusalCodes.MatchString(text) || refusalWords.MatchString(text), 0
	}
	return false, 0
}
