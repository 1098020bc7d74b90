package migrate

import (
	"errors"
	"net"
	"time"
)

// absence is a time in which a user's store could not be connected to.
type absence struct {
	since time.Time // zero: it can be
	times int       // that it was tried
}

// away reports that err is a connection which could not be made to a store that could
// be reached before: it is away, which is no fault of the user, unless it stays away.
// passed: the user has been checked.
func (d *driver) away(err error, passed bool) bool {
	var dial *net.OpError
	known := passed || d.route.from != nil && d.host().reached.Load()
	// Who gave a roll-back order wants to hear soon that it cannot be done now.
	if !known || d.move.Back || !errors.As(err, &dial) || dial.Op != "dial" {
		d.present()
		return false
	}
	if d.absent.since.IsZero() {
		d.absent.since = time.Now()
	}
	if time.Since(d.absent.since) >= d.e.timing.Away { // from here on it counts as a failure each time
		d.absent.times = 0
		d.b.away(d.user, "")
		return false
	}
	d.absent.times++
	d.log.Warn("a store cannot be reached", "state", d.move.State, "since", d.absent.since.UTC().Format(time.RFC3339), "error", err)
	d.b.away(d.user, err.Error())
	return true
}

// present ends an absence.
func (d *driver) present() {
	if d.absent.times > 0 {
		d.b.away(d.user, "")
	}
	d.absent.times = 0
	d.absent.since = time.Time{}
}
