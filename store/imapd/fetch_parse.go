package imapd

import (
	"strconv"
	"strings"

	"mailferry/internal/line"
	"mailferry/store/message"
)

// fetchItem is one item of FETCH, with its name as the response shows it.
type fetchItem struct {
	name    string // of the table, or BODY for a section
	section *bodySection
}

// bodySection is BODY[...], or one of the old names for some of them.
type bodySection struct {
	message.Section
	label   string // up to the octets: BODY[1.MIME], RFC822.HEADER
	peek    bool
	partial bool
	offset  uint64
	length  uint64
}

// fetchArguments are those of FETCH.
type fetchArguments struct {
	set          line.NumSet
	saved        bool
	items        []fetchItem
	changedSince uint64
	vanished     bool
}

// macros are those of RFC 3501 section 6.4.5.
var macros = map[string][]string{
	"ALL":  {"FLAGS", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE"},
	"FAST": {"FLAGS", "INTERNALDATE", "RFC822.SIZE"},
	"FULL": {"FLAGS", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE", "BODY"},
}

// plainItems are the items without arguments.
var plainItems = map[string]bool{"FLAGS": true, "UID": true, "INTERNALDATE": true, "RFC822.SIZE": true, "ENVELOPE": true,
	"BODYSTRUCTURE": true, "BODY": true, "MODSEQ": true}

// oldSections are the names of RFC 822 times.
var oldSections = map[string]bodySection{
	"RFC822":        {label: "RFC822"},
	"RFC822.HEADER": {label: "RFC822.HEADER", peek: true, Section: message.Section{Specifier: message.SectionHeader}},
	"RFC822.TEXT":   {label: "RFC822.TEXT", Section: message.Section{Specifier: message.SectionText}},
}

const maxFetchItems = 200

func (s *session) parseFetch(c *call) (a fetchArguments, err error) {
	d := c.d
	if !d.ExpectSP() || !s.expectSet(c, &a.set, &a.saved) || !d.ExpectSP() {
		return a, d.Err()
	}
	if !d.ListOf(func() bool { return parseFetchItem(d, &a, false) }) {
		parseFetchItem(d, &a, true)
	}
	if d.SP() {
		d.ExpectList(func() bool { return s.parseFetchModifier(d, &a) })
	}
	if a.vanished && (a.changedSince == 0 || !s.qresync || !c.uid) {
		d.Fail("VANISHED needs UID FETCH, CHANGEDSINCE and QRESYNC")
	}
	d.ExpectEnd()
	return a, d.Err()
}

func (s *session) parseFetchModifier(d *line.Decoder, a *fetchArguments) bool {
	switch {
	case d.Word("CHANGEDSINCE"):
		return d.ExpectSP() && d.ExpectNumber64(&a.changedSince)
	case d.Word("VANISHED"):
		a.vanished = true
		return true
	}
	return d.Fail("Unknown modifier")
}

func parseFetchItem(d *line.Decoder, a *fetchArguments, alone bool) bool {
	if len(a.items) >= maxFetchItems {
		return d.Fail("Too many items")
	}
	name := d.Section() // letters, digits and dots: "[" ends it
	if alone && macros[name] != nil {
		for _, m := range macros[name] {
			a.items = append(a.items, fetchItem{name: m})
		}
		return true
	}
	if old, ok := oldSections[name]; ok {
		a.items = append(a.items, fetchItem{name: "BODY", section: &old})
		return true
	}
	if (name == "BODY" || name == "BODY.PEEK") && d.Special('[') {
		sec := &bodySection{peek: name == "BODY.PEEK"}
		a.items = append(a.items, fetchItem{name: "BODY", section: sec})
		return parseSection(d, sec)
	}
	if !plainItems[name] {
		return d.Fail("Unknown FETCH item")
	}
	a.items = append(a.items, fetchItem{name: name})
	return true
}

// specifiers by their names on the wire.
var specifiers = map[string]message.Specifier{"": message.SectionAll, "HEADER": message.SectionHeader, "TEXT": message.SectionText,
	"MIME": message.SectionMIME, "HEADER.FIELDS": message.SectionFields, "HEADER.FIELDS.NOT": message.SectionFieldsNot}

// parseSection reads what follows "BODY[" (RFC 3501 section 9, section).
func parseSection(d *line.Decoder, sec *bodySection) bool {
	text := d.Section()
	label := "BODY[" + text
	for text != "" && text[0] >= '0' && text[0] <= '9' {
		number, rest, _ := strings.Cut(text, ".")
		n, err := strconv.ParseUint(number, 10, 31)
		if err != nil || n == 0 || len(sec.Path) >= 100 || strings.HasSuffix(text, ".") {
			return d.Fail("Invalid section")
		}
		sec.Path = append(sec.Path, int(n))
		text = rest
	}
	spec, ok := specifiers[text]
	if !ok || spec == message.SectionMIME && sec.Path == nil {
		return d.Fail("Invalid section")
	}
	sec.Specifier = spec
	if spec == message.SectionFields || spec == message.SectionFieldsNot {
		label += " ("
		field := func() bool {
			var f string
			if len(sec.Names) >= 1000 || !d.ExpectAString(&f) {
				return false
			}
			if len(sec.Names) > 0 {
				label += " "
			}
			label += fieldLabel(f)
			sec.Names = append(sec.Names, f)
			return true
		}
		if !d.ExpectSP() || !d.ExpectList(field) {
			return false
		}
		label += ")"
	}
	if !d.ExpectSpecial(']') {
		return false
	}
	sec.label = label + "]"
	return parsePartial(d, sec)
}

// fieldLabel is a field's name as the response repeats it.
func fieldLabel(f string) string {
	for i := 0; i < len(f); i++ {
		if f[i] <= ' ' || f[i] >= 0x7f || strings.IndexByte(`(){%*"\]`, f[i]) >= 0 {
			return string(line.AppendString(nil, f))
		}
	}
	if f == "" {
		return `""`
	}
	return f
}

// parsePartial reads "<offset.length>"; the response shows the offset.
func parsePartial(d *line.Decoder, sec *bodySection) bool {
	if !d.Special('<') {
		return true
	}
	sec.partial = true
	if !d.ExpectNumber64(&sec.offset) || !d.ExpectSpecial('.') || !d.ExpectNumber64(&sec.length) || !d.ExpectSpecial('>') {
		return false
	}
	sec.label += "<" + strconv.FormatUint(sec.offset, 10) + ">"
	return true
}
