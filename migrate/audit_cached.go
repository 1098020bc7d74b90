package migrate

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"

	"mailferry/backend/remote"
)

// What clients keep for ever of a message, apart from its body.
const (
	itemEnvelope  = "ENVELOPE"
	itemStructure = "BODYSTRUCTURE"
	itemHeader    = "BODY[HEADER]"
	cachedItems   = itemEnvelope + " " + itemStructure + " BODY.PEEK[HEADER]"
)

// cachedChunk is smaller than auditChunk: values are kept until both sides came.
const cachedChunk = 100

// envelopeFields are those of RFC 9051 section 7.5.2, in their order.
var envelopeFields = []string{"date", "subject", "from", "sender", "reply-to", "to", "cc", "bcc", "in-reply-to", "message-id"}

// cached compares what clients keep for ever.
func (a *auditor) cached(ctx context.Context, box string, common []imap.UID) error {
	for chunk := range slices.Chunk(common, cachedChunk) {
		var got [2]map[imap.UID]map[string]remote.Value
		err := both(func(i int) error {
			got[i] = make(map[imap.UID]map[string]remote.Value, len(chunk))
			err := a.sides[i].c.FetchItems(ctx, setOf(chunk), cachedItems, func(uid imap.UID, v map[string]remote.Value) error {
				got[i][uid] = v
				return nil
			})
			if err != nil {
				return fmt.Errorf("%s: %w", a.sides[i].name, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, uid := range chunk {
			a.cachedMessage(box, uid, got[0][uid], got[1][uid])
		}
	}
	return nil
}

func (a *auditor) cachedMessage(box string, uid imap.UID, x, y map[string]remote.Value) {
	if len(x) == 0 || len(y) == 0 {
		return // gone since the listing; merge tells
	}
	if class, what := envelopeDiffers(x[itemEnvelope], y[itemEnvelope]); class != "" {
		a.differ(class, box, uid, "%s", what)
	}
	if class, what := structureDiffers(x[itemStructure], y[itemStructure]); class != "" {
		a.differ(class, box, uid, "%s", what)
	}
	if v, w := x[itemHeader], y[itemHeader]; v.String() != w.String() {
		a.differ(ClassHeader, box, uid, "%s", firstDifference(v.Text, w.Text))
	}
}

// addressFields are the envelope's fields that hold addresses.
var addressFields = map[string]bool{"from": true, "sender": true, "reply-to": true, "to": true, "cc": true, "bcc": true}

// envelopeDiffers names the fields that differ; the class is the worst of theirs.
func envelopeDiffers(x, y remote.Value) (class AuditClass, what string) {
	if x.String() == y.String() {
		return "", ""
	}
	if len(x.List) != len(envelopeFields) || len(y.List) != len(envelopeFields) {
		return ClassEnvelope, "another number of fields"
	}
	class = ClassEnvelopeSpace
	var fields []string
	for i, name := range envelopeFields {
		v, w := x.List[i].String(), y.List[i].String()
		if v == w {
			continue
		}
		fields = append(fields, name+": "+firstDifference(v, w))
		switch {
		case slices.Equal(strings.Fields(x.List[i].Text), strings.Fields(y.List[i].Text)) && x.List[i].Kind == y.List[i].Kind && x.List[i].Kind != remote.ValueList:
		case addressFields[name]:
			class = ClassEnvelopeAddress
		default:
			return ClassEnvelope, strings.Join(fields, "; ")
		}
	}
	return class, strings.Join(fields, "; ")
}

// structureDiffers compares without regard to the case of what has none: types,
// subtypes, parameter names, encodings (RFC 9051 section 7.5.2).
func structureDiffers(x, y remote.Value) (class AuditClass, what string) {
	v, w := strings.ToLower(x.String()), strings.ToLower(y.String())
	if v == w {
		return "", ""
	}
	what = firstDifference(v, w)
	v, w = withoutCharset(v), withoutCharset(w)
	switch {
	case v == w:
		return ClassStructureCharset, what
	case strings.ReplaceAll(v, `"8bit"`, `"7bit"`) == strings.ReplaceAll(w, `"8bit"`, `"7bit"`):
		return ClassStructureEncoding, what
	}
	return ClassStructure, what
}

// withoutCharset is a structure without the charset that a text part has
// when it names none: some stores say it, some leave it out (RFC 2046 4.1.2).
func withoutCharset(s string) string {
	return strings.NewReplacer(`("charset" "us-ascii")`, "nil", `"charset" "us-ascii" `, "", ` "charset" "us-ascii"`, "").Replace(s)
}

// firstDifference shows where two texts part.
func firstDifference(x, y string) string {
	n := 0
	for n < len(x) && n < len(y) && x[n] == y[n] {
		n++
	}
	start := max(0, n-10)
	cut := func(s string) string { return s[min(start, len(s)):min(n+30, len(s))] }
	return fmt.Sprintf("%q became %q", cut(x), cut(y))
}
