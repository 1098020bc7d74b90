// Package line is the wire layer that all protocols of mailferry share: bounded
// lines and literals, deadlines, the STARTTLS switch, SASL messages, the IMAP
// decoder and encoder, modified UTF-7, and an in-memory connection.
//
// Nothing here knows a mailbox or a user. Everything that a peer sends is
// bounded, and every bound is a parameter.
//
// A server's loop looks like this:
//
//	c := line.NewConn(nc)
//	d := line.NewDecoder(c.Reader, line.PreLogin)
//	for {
//		if err := c.Wait(30*time.Minute, time.Minute); err != nil { ... } // first octet, then the rest
//		if err := d.Begin(); err != nil { ... }
//		var tag, name string
//		if !d.ExpectTag(&tag) || !d.ExpectSP() || !d.ExpectAtom(&name) { ... d.Discard() ... }
//		...
//	}
package line
