package proxy

import (
	"cmp"
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// place is one service of a store at one address.
type place struct {
	store    string
	host     string
	port     int
	protocol backend.Protocol
}

func placeOf(st *backend.Store, host string, p backend.Protocol) place {
	return place{st.Name, host, st.Port(p), p}
}

// health is what is known of a place that has failed since it last worked.
type health struct {
	misses  int       // dials that failed in a row
	clients []string  // whose logins failed behind the dial, each once
	since   time.Time // it is away; zero: it is not, yet
	why     string
	asked   time.Time // by a login, last, while it is away
}

func (h *health) down() bool { return !h.since.IsZero() }

// A place is away after two dials in a row have failed, or after connections
// for three different clients have: what one client brings about, a store that
// has shut out that one, for instance, takes it from nobody else. Then it is
// not dialled for logins until a probe finds it well.
const (
	maxMisses  = 2
	maxClients = 3
	probeEvery = 2 * time.Second
	probeLater = 10 * time.Second // after a minute
	forgetIn   = 10 * time.Minute // nobody has asked for it
	maxPlaces  = 10_000           // in trouble at a time; more are tried by each login
)

func (b *Backends) isUp(at place) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := b.health[at]
	if h == nil || !h.down() {
		return true
	}
	h.asked = time.Now()
	return false
}

func (b *Backends) allAway(st *backend.Store, hosts []string, p backend.Protocol) bool {
	return !slices.ContainsFunc(hosts, func(host string) bool { return b.isUp(placeOf(st, host, p)) })
}

// observe learns from how a connection went.
func (b *Backends) observe(ctx context.Context, at place, st *backend.Store, client net.Addr, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := b.health[at]
	if !isFailure(err) {
		if h != nil && (err == nil || backend.IsKind(err, backend.KindAuthentication)) && !h.down() {
			delete(b.health, at) // it works
		}
		return
	}
	if ctx.Err() != nil || b.closed {
		return // the client has gone, or a hold has come: nobody's fault
	}
	if h == nil {
		if len(b.health) >= maxPlaces {
			return
		}
		h = &health{}
		b.health[at] = h
	}
	if h.down() {
		return
	}
	if h.why = reasonOf(err); remote.Unreached(err) {
		h.misses++
	} else if who := clientKey(client); !slices.Contains(h.clients, who) {
		h.clients = append(h.clients, who)
	}
	if h.misses < maxMisses && len(h.clients) < maxClients {
		return
	}
	h.since = time.Now()
	h.asked = h.since
	b.o.Logger.Warn("store is away: logins are refused for now, and it is looked after", "store", at.store, "host", at.host, "protocol", at.protocol, "error", h.why)
	probed := *st
	b.wg.Go(func() { b.probe(at, &probed) })
}

// isFailure reports whether err says that a place is not well, other than by
// refusing somebody.
func isFailure(err error) bool {
	return err != nil && (remote.BeforeLogin(err) || backend.IsKind(err, backend.KindUnavailable) && remote.Stepped(err))
}

// reasonOf is what went wrong without where, which is known.
func reasonOf(err error) string {
	var step *remote.StepError
	if errors.As(err, &step) {
		return step.Error()
	}
	return err.Error()
}

// clientKey tells clients apart; deliveries count as one.
func clientKey(a net.Addr) string {
	if a == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return host
}

// probe looks after a place until it greets as it should, or nobody has asked
// for it for long.
func (b *Backends) probe(at place, st *backend.Store) {
	begin, every := time.Now(), probeEvery
	for pause(b.ctx, every) {
		if time.Since(begin) > time.Minute {
			every = probeLater
		}
		err := remote.Probe(b.ctx, remote.Target{Store: st, Host: at.host, Dial: b.o.Dial}, at.protocol)
		b.mu.Lock()
		h := b.health[at]
		forgotten := time.Since(h.asked) > forgetIn
		if err == nil || forgotten {
			delete(b.health, at)
		} else if b.ctx.Err() == nil {
			h.why = reasonOf(err)
		}
		b.mu.Unlock()
		if err == nil {
			b.o.Logger.Info("store is back", "store", at.store, "host", at.host, "protocol", at.protocol, "after", time.Since(begin).Round(time.Millisecond))
		}
		if err == nil || forgotten {
			return
		}
	}
}

// BackendHealth is a service of a store at an address that has failed.
type BackendHealth struct {
	Store    string           `json:"store"`
	Host     string           `json:"host"`
	Port     int              `json:"port"`
	Protocol backend.Protocol `json:"protocol"`
	// Away since then: logins do not dial it. Zero: it has failed, but not
	// often enough.
	Since time.Time `json:"since"`
	Error string    `json:"error"`
}

// Troubles lists the services that have failed since they last worked, in the
// order of stores; everything else is well, as far as anybody has tried.
func (b *Backends) Troubles() []BackendHealth {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]BackendHealth, 0, len(b.health))
	for at, h := range b.health {
		list = append(list, BackendHealth{Store: at.store, Host: at.host, Port: at.port, Protocol: at.protocol, Since: h.since, Error: h.why})
	}
	slices.SortFunc(list, func(x, y BackendHealth) int {
		return cmp.Or(cmp.Compare(x.Store, y.Store), cmp.Compare(x.Host, y.Host), cmp.Compare(x.Port, y.Port))
	})
	return list
}

var (
	downDesc = prometheus.NewDesc("mailferry_proxy_backend_down", "1: this service of a store has failed and logins do not dial it; 0: it has failed, but is still tried. Services that are well are not listed.",
		[]string{"store", "address", "protocol"}, nil)
	seatsDesc = prometheus.NewDesc("mailferry_proxy_backend_sessions", "Sessions at an address of a store with a bound of sessions.", []string{"store", "address"}, nil)
)

// Describe implements prometheus.Collector.
func (b *Backends) Describe(c chan<- *prometheus.Desc) {
	c <- downDesc
	c <- seatsDesc
}

// Collect implements prometheus.Collector.
func (b *Backends) Collect(c chan<- prometheus.Metric) {
	for _, h := range b.Troubles() {
		down := 0.0
		if !h.Since.IsZero() {
			down = 1
		}
		c <- prometheus.MustNewConstMetric(downDesc, prometheus.GaugeValue, down, h.Store, net.JoinHostPort(h.Host, strconv.Itoa(h.Port)), string(h.Protocol))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for at, s := range b.rooms {
		c <- prometheus.MustNewConstMetric(seatsDesc, prometheus.GaugeValue, float64(s.taken), at.store, at.host)
	}
}
