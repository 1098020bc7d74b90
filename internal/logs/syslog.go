package logs

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Syslog is a collector that takes RFC 5424.
type Syslog struct {
	// Address is unix:///dev/log, udp://host:514 or tcp://host:601. TCP counts
	// octets (RFC 6587, 3.4.1).
	Address  string
	Facility string // mail, daemon, local0 to local7; empty: mail
	App      string // APP-NAME; empty: mailferry
}

// Facilities by name (RFC 5424, 6.2.1).
var Facilities = map[string]int{"user": 1, "mail": 2, "daemon": 3, "auth": 4, "authpriv": 10, "local0": 16, "local1": 17, "local2": 18,
	"local3": 19, "local4": 20, "local5": 21, "local6": 22, "local7": 23}

// ParseSyslog splits an address into what net.Dial takes.
func ParseSyslog(address string) (network, to string, err error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", "", err
	}
	switch {
	case u.Scheme == "unix" && u.Path != "":
		return "unixgram", u.Path, nil
	case (u.Scheme == "udp" || u.Scheme == "tcp") && u.Port() != "" && u.Hostname() != "":
		return u.Scheme, u.Host, nil
	}
	return "", "", fmt.Errorf("%q is not an address of syslog: write unix:///dev/log, udp://host:514 or tcp://host:601", address)
}

// Limits of the way to a collector. One that is away or slow must not stop the
// mail: what does not fit into the queue is counted and dropped.
const (
	syslogQueue = 4096
	syslogWrite = 5 * time.Second
	syslogRetry = time.Second
	syslogClose = 2 * time.Second
)

// syslogWriter sends messages from one goroutine, which Close ends.
type syslogWriter struct {
	network, to string
	facility    int
	app, host   string
	queue       chan []byte
	dropped     atomic.Int64
	ctx         context.Context
	cancel      context.CancelFunc
	wg          sync.WaitGroup
	conn        net.Conn // of the goroutine
}

func dialSyslog(o *Syslog) (*syslogWriter, error) {
	network, to, err := ParseSyslog(o.Address)
	if err != nil {
		return nil, err
	}
	facility, ok := Facilities[o.Facility]
	if !ok && o.Facility != "" {
		return nil, fmt.Errorf("no syslog facility is called %q", o.Facility)
	} else if !ok {
		facility = Facilities["mail"]
	}
	s := &syslogWriter{network: network, to: to, facility: facility, app: o.App, queue: make(chan []byte, syslogQueue)}
	if s.app == "" {
		s.app = "mailferry"
	}
	if s.host, err = os.Hostname(); err != nil || s.host == "" {
		s.host = "-"
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.wg.Go(s.run)
	return s, nil
}

// Close sends what is queued, within syslogClose.
func (s *syslogWriter) Close() error {
	close(s.queue)
	timer := time.AfterFunc(syslogClose, s.cancel)
	defer timer.Stop()
	s.wg.Wait()
	s.cancel()
	return nil
}

// put queues a message; it never waits.
func (s *syslogWriter) put(m []byte) {
	select {
	case s.queue <- m:
	default:
		s.dropped.Add(1)
	}
}

func (s *syslogWriter) run() {
	defer func() {
		if s.conn != nil {
			s.conn.Close()
		}
	}()
	for m := range s.queue {
		if n := s.dropped.Swap(0); n > 0 {
			s.send(s.message(slog.LevelWarn, time.Now(), "", []byte(fmt.Sprintf("%d messages were dropped: the collector was away or slow", n))))
		}
		s.send(m)
	}
}

// send tries until the message is out or the writer ends: the queue behind it
// is bounded.
func (s *syslogWriter) send(m []byte) {
	for s.ctx.Err() == nil {
		if s.try(m) == nil {
			return
		}
		if s.conn != nil {
			s.conn.Close()
			s.conn = nil
		}
		timer := time.NewTimer(syslogRetry)
		select {
		case <-timer.C:
		case <-s.ctx.Done():
			timer.Stop()
		}
	}
}

func (s *syslogWriter) try(m []byte) error {
	if s.conn == nil {
		ctx, cancel := context.WithTimeout(s.ctx, syslogWrite)
		defer cancel()
		c, err := new(net.Dialer).DialContext(ctx, s.network, s.to)
		if err != nil {
			return err
		}
		s.conn = c
	}
	if s.network == "tcp" {
		m = append([]byte(strconv.Itoa(len(m))+" "), m...)
	}
	s.conn.SetWriteDeadline(time.Now().Add(syslogWrite))
	_, err := s.conn.Write(m)
	return err
}

// severity maps levels (RFC 5424, 6.2.1).
func severity(l slog.Level) int {
	switch {
	case l >= slog.LevelError:
		return 3
	case l >= slog.LevelWarn:
		return 4
	case l >= slog.LevelInfo:
		return 6
	}
	return 7
}

// maxMessage keeps a datagram whole on its way (RFC 5424, 6.1 asks receivers for
// 2,048 octets at least).
const maxMessage = 8 << 10

// message is one of RFC 5424. service is its MSGID.
func (s *syslogWriter) message(l slog.Level, at time.Time, service string, text []byte) []byte {
	if service == "" {
		service = "-"
	}
	text = bytes.TrimRight(text, "\n")
	text = text[:min(len(text), maxMessage)]
	head := fmt.Sprintf("<%d>1 %s %s %s %d %s - ", s.facility*8+severity(l), at.UTC().Format("2006-01-02T15:04:05.000000Z07:00"),
		printable(s.host, 255), printable(s.app, 48), os.Getpid(), printable(service, 32))
	return append([]byte(head), text...)
}

// printable keeps a header field what it has to be (PRINTUSASCII).
func printable(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), most)]
}

// syslogRecords formats each record with slog's own handlers and sends it.
type syslogRecords struct {
	s       *syslogWriter
	json    bool
	service string
	added   []func(slog.Handler) slog.Handler
}

func syslogHandler(s *syslogWriter, asJSON bool) slog.Handler {
	return &syslogRecords{s: s, json: asJSON}
}

func (h *syslogRecords) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler. Time and level are in the header.
func (h *syslogRecords) Handle(ctx context.Context, r slog.Record) error {
	var b bytes.Buffer
	o := &slog.HandlerOptions{Level: most, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return a
	}}
	var to slog.Handler = slog.NewTextHandler(&b, o)
	if h.json {
		to = slog.NewJSONHandler(&b, o)
	}
	for _, add := range h.added {
		to = add(to)
	}
	if err := to.Handle(ctx, r); err != nil {
		return err
	}
	h.s.put(h.s.message(r.Level, r.Time, h.service, b.Bytes()))
	return nil
}

func (h *syslogRecords) WithAttrs(attrs []slog.Attr) slog.Handler {
	n := *h
	for _, a := range attrs {
		if a.Key == "protocol" || a.Key == "part" {
			n.service = a.Value.String()
		}
	}
	n.added = append(h.added[:len(h.added):len(h.added)], func(to slog.Handler) slog.Handler { return to.WithAttrs(attrs) })
	return &n
}

func (h *syslogRecords) WithGroup(name string) slog.Handler {
	n := *h
	n.added = append(h.added[:len(h.added):len(h.added)], func(to slog.Handler) slog.Handler { return to.WithGroup(name) })
	return &n
}
