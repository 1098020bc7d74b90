package remote

import "mailferry/backend"

// maxContentID bounds an id; longer ones count as none.
const maxContentID = 512

// ContentIDs is the FETCH item by which the store names the content of a
// message, whatever mailbox it is in; "" where it has none. It is a claim: two
// messages with one id should be the same octets.
func (c *Client) ContentIDs() string {
	switch {
	case c.profile.Type == backend.StoreDovecot:
		return "X-GUID" // kept by COPY and MOVE
	case c.Has("OBJECTID"):
		return "EMAILID" // RFC 8474 5.1; of Cyrus: the beginning of the SHA-1
	case c.Has("X-GM-EXT-1"):
		return "X-GM-MSGID"
	}
	return ""
}

// bodyItems are what bodies are asked for with.
func (c *Client) bodyItems() string {
	if item := c.ContentIDs(); item != "" && c.askIDs {
		return item + " BODY.PEEK[]"
	}
	return "BODY.PEEK[]"
}

// contentIDValue reads an id as an atom or a string, in parentheses or without.
func (c *Client) contentIDValue() ([]byte, error) {
	s := c.conn.scan
	paren := s.accept('(')
	b, null, err := s.str()
	if err != nil {
		return nil, err
	}
	var id []byte
	if !null && len(b) > 0 && len(b) <= maxContentID {
		c.contentID = append(c.contentID[:0], b...)
		id = c.contentID
	}
	if paren && !s.accept(')') {
		return nil, syntaxf("content id")
	}
	return id, nil
}
