package imapd

import (
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"

	"mailferry/internal/line"
	"mailferry/store/message"
)

// key is a search key (RFC 3501 section 6.4.4).
type key interface {
	match(c *candidate) bool
}

// searchArguments are those of SEARCH.
type searchArguments struct {
	key     key
	ret     bool // RETURN was given (RFC 4731)
	options map[string]bool
	modseq  bool // MODSEQ is among the keys
	// structures: a key looks into the messages
	structures bool
}

type searchParser struct {
	s    *session
	d    *line.Decoder
	keys int
	a    searchArguments
}

// maxKeys bounds the keys of one SEARCH.
const maxKeys = 1000

func (s *session) parseSearch(c *call) (searchArguments, error) {
	p := &searchParser{s: s, d: c.d}
	d := c.d
	if !d.ExpectSP() {
		return p.a, d.Err()
	}
	if d.Word("RETURN") {
		p.a.ret, p.a.options = true, map[string]bool{}
		if !d.ExpectSP() || !d.ExpectList(p.option) || !d.ExpectSP() {
			return p.a, d.Err()
		}
		if len(p.a.options) == 0 {
			p.a.options["ALL"] = true
		}
	}
	if d.Word("CHARSET") {
		var charset string
		if !d.ExpectSP() || !d.ExpectAString(&charset) || !d.ExpectSP() {
			return p.a, d.Err()
		}
		if !strings.EqualFold(charset, "UTF-8") && !strings.EqualFold(charset, "US-ASCII") {
			return p.a, no("BADCHARSET (US-ASCII UTF-8)", "Unknown charset")
		}
	}
	p.a.key = p.all(func() bool { return d.SP() })
	d.ExpectEnd()
	return p.a, d.Err()
}

func (p *searchParser) option() bool {
	var w string
	p.d.Keyword(&w)
	switch w {
	case "MIN", "MAX", "ALL", "COUNT", "SAVE":
		p.a.options[w] = true
		return true
	}
	return p.d.Fail("Unknown return option")
}

// all reads keys that must all match.
func (p *searchParser) all(more func() bool) key {
	var keys and
	for {
		k := p.key()
		if k == nil {
			return nil
		}
		keys = append(keys, k)
		if !more() {
			return keys
		}
	}
}

// key reads one key, nil after an error.
func (p *searchParser) key() key {
	d := p.d
	if p.keys++; p.keys > maxKeys {
		d.Fail("Too many search keys")
	}
	if !d.Enter() {
		return nil
	}
	defer d.Leave()
	if d.Special('(') {
		k := p.all(func() bool { return d.SP() })
		if !d.ExpectSpecial(')') {
			return nil
		}
		return k
	}
	if d.Special('$') {
		return uidKey{p.s.saved}
	}
	var set line.NumSet
	if d.NumSet(&set) {
		return p.numbers(set)
	}
	var name string
	if !d.Keyword(&name) {
		d.Fail("Search key expected")
		return nil
	}
	k := p.named(name)
	if d.Err() != nil {
		return nil
	}
	return k
}

// numbers resolves message numbers at once: the view cannot change before the
// command's end.
func (p *searchParser) numbers(set line.NumSet) key {
	uids, ok := p.s.view.resolve(set, false)
	if !ok {
		// Numbers that are not there match nothing; "*" in an empty mailbox.
		set = clipSet(set.Resolve(p.s.view.last(false)), p.s.view.last(false))
		uids, _ = p.s.view.fromNumbers(set)
	}
	return uidKey{line.FromUIDSet(uids)}
}

func clipSet(set line.NumSet, last uint32) line.NumSet {
	var out line.NumSet
	for _, r := range set {
		if r.Start <= last {
			out = append(out, line.Range{Start: r.Start, Stop: min(r.Stop, last)})
		}
	}
	return out
}

// flagKeys are the keys that ask for one flag.
var flagKeys = map[string]flagKey{
	"ANSWERED": {imap.FlagAnswered, true}, "UNANSWERED": {imap.FlagAnswered, false},
	"DELETED": {imap.FlagDeleted, true}, "UNDELETED": {imap.FlagDeleted, false},
	"DRAFT": {imap.FlagDraft, true}, "UNDRAFT": {imap.FlagDraft, false},
	"FLAGGED": {imap.FlagFlagged, true}, "UNFLAGGED": {imap.FlagFlagged, false},
	"SEEN": {imap.FlagSeen, true}, "UNSEEN": {imap.FlagSeen, false},
}

func (p *searchParser) named(name string) key {
	if k, ok := flagKeys[name]; ok {
		return k
	}
	switch name {
	case "ALL":
		return and{}
	case "NEW":
		return and{recentKey{}, flagKey{imap.FlagSeen, false}}
	case "OLD":
		return not{recentKey{}}
	case "RECENT":
		return recentKey{}
	}
	if !p.d.ExpectSP() {
		return nil
	}
	switch name {
	case "NOT":
		return not{p.key()}
	case "OR":
		a := p.key()
		p.d.ExpectSP()
		return or{a, p.key()}
	case "UID":
		return p.uids()
	case "KEYWORD", "UNKEYWORD":
		var f imap.Flag
		p.d.ExpectFlag(&f)
		return flagKey{f, name == "KEYWORD"}
	case "MODSEQ":
		return p.modseq()
	case "LARGER", "SMALLER", "OLDER", "YOUNGER":
		return p.number(name)
	case "BEFORE", "ON", "SINCE", "SENTBEFORE", "SENTON", "SENTSINCE":
		var t time.Time
		p.d.ExpectDate(&t)
		p.a.structures = p.a.structures || strings.HasPrefix(name, "SENT")
		return dateKey{strings.TrimPrefix(name, "SENT"), strings.HasPrefix(name, "SENT"), t}
	}
	return p.text(name)
}

func (p *searchParser) uids() key {
	if p.d.Special('$') {
		return uidKey{p.s.saved}
	}
	var set line.NumSet
	p.d.ExpectNumSet(&set)
	return uidKey{set.Resolve(p.s.view.last(true))}
}

// modseq: RFC 7162 section 3.1.5; the optional entry's name and type are read
// and not needed, as there is one modseq per message.
func (p *searchParser) modseq() key {
	var entry, kind string
	if p.d.Quoted(&entry) {
		p.d.ExpectSP()
		p.d.ExpectAtom(&kind)
		p.d.ExpectSP()
	}
	var n uint64
	p.d.ExpectNumber64(&n)
	p.a.modseq = true
	return modseqKey(n)
}

func (p *searchParser) number(name string) key {
	var n uint64
	p.d.ExpectNumber64(&n)
	switch name {
	case "LARGER":
		return sizeKey{int64(n), true}
	case "SMALLER":
		return sizeKey{int64(n), false}
	}
	at := time.Now().Add(-time.Duration(min(n, 1<<32)) * time.Second)
	return ageKey{at, name == "OLDER"}
}

func (p *searchParser) text(name string) key {
	field := ""
	p.a.structures = true
	switch name {
	case "BCC", "CC", "FROM", "SUBJECT", "TO":
		field = name
	case "HEADER":
		if !p.d.ExpectAString(&field) || !p.d.ExpectSP() {
			return nil
		}
	case "BODY", "TEXT":
	default:
		p.d.Fail("Unknown search key")
		return nil
	}
	var want string
	if !p.d.ExpectAString(&want) {
		return nil
	}
	switch name {
	case "BODY":
		return bodyKey{message.NewMatcher(want), false}
	case "TEXT":
		return bodyKey{message.NewMatcher(want), true}
	}
	return fieldKey{field, message.NewMatcher(want), name != "HEADER" && name != "SUBJECT"}
}
