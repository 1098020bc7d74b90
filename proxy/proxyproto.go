package proxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// headerLimit bounds the wait for a PROXY header.
const headerLimit = 5 * time.Second

// proxySignature begins a header of version 2.
const proxySignature = "\r\n\r\n\x00\r\nQUIT\n"

var errProxyHeader = errors.New("no valid PROXY header")

// balanced is a connection that a balancer has handed on: the client is who the
// balancer says.
type balanced struct {
	net.Conn
	client net.Addr
}

func (b *balanced) RemoteAddr() net.Addr { return b.client }

// NetConn is the connection itself.
func (b *balanced) NetConn() net.Conn { return b.Conn }

func (b *balanced) CloseWrite() error { return closeWrite(b.Conn) }

// unwrap reads the PROXY header that connections from balancers begin with;
// others are as they are, whatever they begin with.
func (p *Proxy) unwrap(nc net.Conn) (net.Conn, error) {
	if !p.balancer(nc.RemoteAddr()) {
		return nc, nil
	}
	nc.SetReadDeadline(time.Now().Add(headerLimit))
	client, err := readProxyHeader(nc)
	nc.SetReadDeadline(time.Time{})
	if err != nil || client == nil {
		return nc, err
	}
	return &balanced{nc, client}, nil
}

func (p *Proxy) balancer(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return false
	}
	ip := t.AddrPort().Addr().Unmap()
	for _, n := range p.o.Balancers {
		if n.Contains(ip) {
			return true
		}
	}
	return false
}

// readProxyHeader reads a header of either version and not an octet more. nil:
// the balancer speaks for itself.
func readProxyHeader(r io.Reader) (net.Addr, error) {
	var head [16]byte
	if _, err := io.ReadFull(r, head[:12]); err != nil {
		return nil, errors.Join(errProxyHeader, err)
	}
	switch {
	case string(head[:12]) == proxySignature:
		return readProxy2(r, head)
	case bytes.HasPrefix(head[:], []byte("PROXY ")):
		return readProxy1(r, head[:12])
	}
	return nil, errProxyHeader
}

func readProxy2(r io.Reader, head [16]byte) (net.Addr, error) {
	if _, err := io.ReadFull(r, head[12:]); err != nil {
		return nil, errors.Join(errProxyHeader, err)
	}
	body := make([]byte, min(int(binary.BigEndian.Uint16(head[14:])), 2<<10))
	if int(binary.BigEndian.Uint16(head[14:])) > len(body) {
		return nil, errProxyHeader
	}
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, errors.Join(errProxyHeader, err)
	}
	size := map[byte]int{0x11: 4, 0x21: 16}[head[13]] // TCP over IPv4 and IPv6
	switch {
	case head[12] == 0x20: // LOCAL
		return nil, nil
	case head[12] != 0x21 || size == 0 || len(body) < 2*size+4:
		return nil, errProxyHeader
	}
	ip, _ := netip.AddrFromSlice(body[:size])
	port := binary.BigEndian.Uint16(body[2*size:])
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, port)), nil
}

// readProxy1 reads the rest of a line of at most 107 octets.
func readProxy1(r io.Reader, l []byte) (net.Addr, error) {
	var b [1]byte
	for !bytes.HasSuffix(l, []byte("\r\n")) {
		if len(l) >= 107 {
			return nil, errProxyHeader
		}
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return nil, errors.Join(errProxyHeader, err)
		}
		l = append(l, b[0])
	}
	f := strings.Split(strings.TrimSuffix(string(l), "\r\n"), " ")
	if len(f) >= 2 && f[1] == "UNKNOWN" {
		return nil, nil
	}
	if len(f) != 6 || f[1] != "TCP4" && f[1] != "TCP6" {
		return nil, errProxyHeader
	}
	ip, err := netip.ParseAddr(f[2])
	port, perr := strconv.ParseUint(f[4], 10, 16)
	if err != nil || perr != nil || ip.Is4() != (f[1] == "TCP4") || ip.Zone() != "" {
		return nil, errProxyHeader
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, uint16(port))), nil
}
