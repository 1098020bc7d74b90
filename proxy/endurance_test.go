package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mailferry/backend"
)

// okStore is a store that greets nobody and says OK to everything.
func okStore(t testing.TB) (addr string) {
	l := listenLocal(t)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for r := bufio.NewScanner(c); r.Scan(); {
					tag, verb, _ := strings.Cut(r.Text(), " ")
					fmt.Fprintf(c, "%s OK done\r\n", tag)
					if verb == "LOGOUT" {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// checking is a Connector that knows one password.
type checking string

func (a checking) Connect(ctx context.Context, r ConnectRequest) (BackendConn, error) {
	if r.CheckPassword && r.Password != "secret" {
		return BackendConn{}, backend.NewError(backend.KindAuthentication, "")
	}
	return tcpConnector(a).Connect(ctx, r)
}

// descriptors are those that the process has open.
func descriptors(t testing.TB) int {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc")
	}
	return len(fds)
}

// TestSessionsComeAndGo: what sessions take they give back.
func TestSessionsComeAndGo(t *testing.T) {
	batches, size := 4, 250
	if os.Getenv("SOAK") != "" {
		batches, size = 5, 2000
	}
	addr, _, p := onSockets(t, Options{Connector: tcpConnector(okStore(t))}, false)
	use := func(n int) {
		conns := make([]net.Conn, n)
		for i := range conns {
			conns[i] = benchLogin(t, addr, nil)
		}
		until(t, "all are parked", func() bool { return p.parker.parked() == 2*n })
		for i, c := range conns {
			if i%2 == 0 { // half of them politely
				io.WriteString(c, "z LOGOUT\r\n")
				if _, err := io.Copy(io.Discard, c); err != nil {
					t.Error(err)
				}
			}
			c.Close()
		}
		until(t, "all have ended", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return len(p.conns) == 0 })
	}
	inUse := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	use(size) // what is kept for ever
	fds, routines, heap := descriptors(t), runtime.NumGoroutine(), inUse()
	for range batches {
		use(size)
	}
	until(t, "descriptors are as before", func() bool { return descriptors(t) <= fds })
	until(t, "goroutines are as before", func() bool { return runtime.NumGoroutine() <= routines })
	if now := inUse(); now > heap+heap/10+1<<20 {
		t.Errorf("heap: %d octets before, %d after %d sessions", heap, now, batches*size)
	}
	if n := len(p.reg.users); n > 0 {
		t.Errorf("%d users are remembered", n)
	}
	t.Logf("%d sessions: %d descriptors, %d goroutines, heap %d -> %d", batches*size, fds, routines, heap, inUse())
}

// The process of the slow clients: a process may hold so many descriptors only.
const slowEnv = "MAILFERRY_TEST_SLOW"

// TestSlowClients: many clients that are silent, or send an octet a second, and
// others that guess passwords, do not keep users out, and hold nothing for long.
func TestSlowClients(t *testing.T) {
	slow, guessers, logins, limit := 200, 10, 300, 5*time.Second
	soak := os.Getenv("SOAK") != ""
	if soak {
		slow, guessers, logins, limit = 8000, 500, 5000, time.Minute
	}
	if args := os.Getenv(slowEnv); args != "" {
		beSlow(t, args)
		return
	}
	addr, _, p := onSockets(t, Options{Connector: checking(okStore(t)), LoginTimeout: limit, parkAfter: parkAfter}, false)
	p.o.FailureDelay = 500 * time.Millisecond
	before := loginTimes(t, addr, logins)
	child := exec.Command(os.Args[0], "-test.run=^TestSlowClients$")
	child.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %d", slowEnv, addr, slow, guessers))
	stop, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	child.Stderr = os.Stderr
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "the slow ones are there", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return len(p.conns) >= slow })
	during := loginTimes(t, addr, logins)
	stop.Close()
	if err := child.Wait(); err != nil {
		t.Errorf("the slow ones: %v", err)
	}
	until(t, "all have ended", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return len(p.conns) == 0 })
	p99 := func(d []time.Duration) time.Duration { return d[len(d)*99/100] }
	t.Logf("login p50 %v -> %v, p99 %v -> %v, with %d slow clients and %d guessers", before[len(before)/2], during[len(during)/2], p99(before), p99(during), slow, guessers)
	if soak && p99(during) > 2*p99(before)+5*time.Millisecond {
		t.Errorf("p99 of a login: %v before, %v during", p99(before), p99(during))
	}
}

// loginTimes logs in n times, four at a time, and returns how long it took,
// ascending.
func loginTimes(t *testing.T, addr string, n int) []time.Duration {
	var mu sync.Mutex
	var all []time.Duration
	var wg sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(n))
	for range 4 {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				begin := time.Now()
				c, err := net.Dial("tcp", addr)
				if err == nil {
					err = logInOut(c, "bernd", "secret", "a OK")
				}
				if err != nil {
					t.Errorf("a user cannot log in: %v", err)
					return
				}
				mu.Lock()
				all = append(all, time.Since(begin))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	slices.Sort(all)
	return all
}

// logInOut closes c.
func logInOut(c net.Conn, user, password, want string) error {
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	r := bufio.NewReader(c)
	if _, err := r.ReadString('\n'); err != nil {
		return err
	}
	fmt.Fprintf(c, "a LOGIN %s %s\r\n", user, password)
	if l, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(l, want) {
		return fmt.Errorf("%q, %w", l, err)
	}
	return nil
}

// beSlow is the other process: it ends with its standard input.
func beSlow(t *testing.T, args string) {
	f := strings.Fields(args)
	slow, _ := strconv.Atoi(f[1])
	guessers, _ := strconv.Atoi(f[2])
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	var wg sync.WaitGroup
	for i := range slow {
		wg.Go(func() {
			for ctx.Err() == nil { // one whom the proxy has sent away comes again
				c, err := net.Dial("tcp", f[0])
				if err != nil {
					t.Error(err)
					return
				}
				stop := context.AfterFunc(ctx, func() { c.Close() })
				if i%2 == 0 {
					go trickle(ctx, c)
				}
				io.Copy(io.Discard, c)
				stop()
				c.Close()
			}
		})
	}
	for range guessers {
		wg.Go(func() {
			for ctx.Err() == nil {
				c, err := net.Dial("tcp", f[0])
				if err != nil {
					t.Error(err)
					return
				}
				if err := logInOut(c, "passer", "wrong", "a NO"); err != nil && ctx.Err() == nil && !errors.Is(err, io.EOF) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// trickle sends an octet a second.
func trickle(ctx context.Context, c net.Conn) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for _, b := range []byte("a LOGIN " + strings.Repeat("x", 100)) {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if _, err := c.Write([]byte{b}); err != nil {
				return
			}
		}
	}
}
