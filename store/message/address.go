package message

// ParseAddresses parses an address-list (RFC 5322 section 3.4). Broken ones
// yield what Dovecot makes of them: clients know MISSING_MAILBOX,
// MISSING_DOMAIN, SYNTAX_ERROR and INVALID_ROUTE.
func ParseAddresses(s string) []Address {
	p := &addressParser{words: words{s: s}}
	if p.skip() == more {
		p.list()
	}
	return p.out
}

// maxAddresses bounds the addresses of one field.
const maxAddresses = 20000

type addressParser struct {
	words
	out   []Address
	cur   Address
	local string // the last local part, even a broken one
}

func (p *addressParser) add() {
	p.out = append(p.out, p.cur)
	p.cur = Address{}
}

func (p *addressParser) addFixed() {
	if p.cur.Mailbox.Value == "" {
		p.cur.Mailbox = text("MISSING_MAILBOX")
	}
	if p.cur.Host.Value == "" {
		p.cur.Host = text("MISSING_DOMAIN")
	}
	p.add()
}

func (p *addressParser) list() {
	for len(p.out) < maxAddresses {
		if p.address() == atEnd || p.peek() != ',' {
			return
		}
		p.i++
		switch p.skip() {
		case broken: // ends in garbage
			p.addFixed()
			return
		case atEnd:
			return
		}
	}
}

func (p *addressParser) address() state {
	start := p.i
	if r := p.group(); r != broken {
		return r
	}
	p.i = start
	return p.mailbox()
}

func (p *addressParser) group() state {
	name, r := p.phrase()
	if r != more || p.peek() != ':' {
		return broken
	}
	// It is a group from here on, however it ends.
	p.i++
	r = p.skip()
	p.cur.Mailbox = text(name)
	p.add()
	if r == more && p.peek() != ';' {
		for len(p.out) < maxAddresses {
			p.mailbox()
			if p.peek() != ',' {
				break
			}
			p.i++
			if p.skip() != more {
				r = broken
				break
			}
		}
	}
	if r != broken {
		if p.peek() != ';' {
			r = broken
		} else {
			p.i++
			r = p.skip()
		}
	}
	p.add() // the group's end
	if r == atEnd {
		return atEnd
	}
	return more
}

func (p *addressParser) mailbox() state {
	start := p.i
	r := p.nameAddr()
	if r == broken {
		p.i = start
		p.cur = Address{}
		r = p.addrSpec()
	}
	p.addFixed()
	return r
}

func (p *addressParser) nameAddr() state {
	name, r := p.phrase()
	if r == broken && name == "" || p.peek() != '<' {
		if p.peek() != '<' || r == broken {
			return broken
		}
	}
	if r != more {
		return broken
	}
	if name != "" {
		p.cur.Name = text(name)
	}
	if p.angle() == broken {
		p.cur.Host = text("SYNTAX_ERROR")
	}
	return p.left()
}

func (p *addressParser) angle() state {
	p.i++
	if r := p.skip(); r != more {
		return r
	}
	if p.peek() == '@' {
		if p.route() == more && p.peek() == ':' {
			p.i++
		} else {
			p.cur.Route = text("INVALID_ROUTE")
			if p.left() == atEnd {
				return broken
			}
		}
		if r := p.skip(); r != more {
			return r
		}
	}
	if p.peek() != '>' {
		if p.localPart() != more {
			return broken
		}
		if p.peek() == '@' && p.parseDomain() != more {
			return broken
		}
	}
	if p.peek() != '>' {
		return broken
	}
	p.i++
	return p.skip()
}

// route takes the obsolete source route "@a,@b".
func (p *addressParser) route() state {
	var route string
	for p.left() == more && p.peek() == '@' {
		d, r := p.domain()
		if r != more {
			return broken
		}
		if route != "" {
			route += ","
		}
		route += "@" + d
		for p.skip() == more && p.peek() == ',' {
			p.i++
		}
	}
	if p.left() == atEnd {
		return atEnd
	}
	p.cur.Route = text(route)
	return more
}

func (p *addressParser) localPart() state {
	var s string
	var r state
	if p.peek() == '"' {
		s, r = p.quoted()
	} else {
		s, r = p.dotAtom()
	}
	p.local = s
	if r != broken {
		p.cur.Mailbox = text(s)
	}
	return r
}

func (p *addressParser) parseDomain() state {
	s, r := p.domain()
	if r != broken {
		p.cur.Host = text(s)
	}
	return r
}

// addrSpec takes user@host, also "user@host (Name)", and takes a single word
// for a mailbox, several for a name.
func (p *addressParser) addrSpec() state {
	p.comment = ""
	r := p.localPart()
	domain := false
	if r != atEnd && p.peek() == '@' {
		domain = true
		if d := p.parseDomain(); d != more {
			r = d
		}
	}
	if p.comment != "" {
		p.cur.Name = text(p.comment)
		return r
	}
	if domain {
		return r
	}
	if rest, _ := p.phrase(); rest != "" {
		p.cur.Mailbox, p.cur.Name = Text{}, text(p.local+" "+rest)
	}
	return broken
}
