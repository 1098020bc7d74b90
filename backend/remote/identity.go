package remote

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"mailferry/backend"
)

// proxySignature begins a PROXY v2 header.
const proxySignature = "\r\n\r\n\x00\r\nQUIT\n"

// origin is the client's address, ok where there is one to tell.
func (t *Target) origin() (a netip.AddrPort, ok bool) {
	tcp, isTCP := t.Client.(*net.TCPAddr)
	if !isTCP {
		return a, false
	}
	a = tcp.AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port()), a.IsValid()
}

// typeUniqueID is the TLV of a PROXY header that names the connection, at most
// 128 octets.
const typeUniqueID = 0x05

// proxyHeader is a PROXY v2 header from client to server, with the session's
// id; without a client it says LOCAL.
func (t *Target) proxyHeader(server net.Addr) []byte {
	from, ok := t.origin()
	to, isTCP := server.(*net.TCPAddr)
	if !ok || !isTCP {
		return append([]byte(proxySignature), 0x20, 0, 0, 0)
	}
	dst := to.AddrPort()
	src, dstIP, family := from.Addr().AsSlice(), dst.Addr().Unmap().AsSlice(), byte(0x11)
	if len(src) != 4 || len(dstIP) != 4 {
		a, b := from.Addr().As16(), dst.Addr().As16()
		src, dstIP, family = a[:], b[:], 0x21
	}
	h := append([]byte(proxySignature), 0x21, family)
	id := t.Session[:min(len(t.Session), 128)]
	length := 2*len(src) + 4
	if id != "" {
		length += 3 + len(id)
	}
	h = binary.BigEndian.AppendUint16(h, uint16(length))
	h = append(append(h, src...), dstIP...)
	h = binary.BigEndian.AppendUint16(h, from.Port())
	h = binary.BigEndian.AppendUint16(h, dst.Port())
	if id != "" {
		h = binary.BigEndian.AppendUint16(append(h, typeUniqueID), uint16(len(id)))
		h = append(h, id...)
	}
	return h
}

// tellOrigin sends ID with the client's address and session, where the store is
// configured to trust it. Whatever the store answers, it has been told.
func (c *IMAPConn) tellOrigin(ctx context.Context) error {
	a, ok := c.target.origin()
	if !ok || c.target.Store.Identity != backend.IdentityNative {
		return nil
	}
	if err := c.capability(ctx); err != nil || !c.Has("ID") {
		return err
	}
	_, err := c.command(fmt.Sprintf(`ID ("name" "mailferry" "x-originating-ip" "%s" "x-originating-port" "%d" "x-session-id" %s)`,
		a.Addr(), a.Port(), quote(c.target.Session)))
	return err
}

// xclient is Dovecot's command for the same, empty where nothing is told.
func (c *TextConn) xclient() string {
	a, ok := c.target.origin()
	if !ok || c.target.Store.Identity != backend.IdentityNative {
		return ""
	}
	return fmt.Sprintf("XCLIENT ADDR=%s PORT=%d SESSION=%s", a.Addr(), a.Port(), strings.ReplaceAll(c.target.Session, " ", ""))
}

// popOrigin sends XCLIENT; a store that refuses it does not trust us.
func (c *TextConn) popOrigin(context.Context) error {
	l := c.xclient()
	if l == "" {
		return nil
	}
	_, err := c.popCommand(l)
	return err
}

func (c *TextConn) sieveOrigin(context.Context) error {
	l := c.xclient()
	if l == "" {
		return nil
	}
	if err := c.send(l); err != nil {
		return err
	}
	lines, end, err := c.sieveAnswer()
	if err == nil && end.status != "OK" {
		err = &end
	}
	if len(lines) > 0 {
		c.caps = lines
	}
	return err
}
