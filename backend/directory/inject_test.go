package directory

import (
	"math/rand/v2"
	"strings"
	"testing"

	"mailferry/backend"
	"mailferry/internal/mailtest"
)

// pieces of names that have bitten somebody's filter, DN or parser.
var pieces = []string{"anna", "otto", "bernd", "an", "na", "*", "(", ")", `\`, `\2a`, `\28`, `\29`, `\5c`, `\00`, "\x00", "&", "|", "!", "=",
	"<", ">", "~", ":", ":=", ",", "+", ";", `"`, "#", "/", "%", "%00", "%2a", "{user}", "{local}", "{domain}", ")(uid=*", "*)(|(uid=*", ")(objectClass=*)",
	"anna)(uid=*))(|(uid=*", "(&(uid=anna))", "uid=anna", "objectClass=*", "\r\n", "\n", "\t", " ", "@", "@example.org", "@corp.example.org", `CORP\`,
	"ａ", "\u00ad", "\u200b", "é", "ß", "ſ", "\xff", "\xc0\xaf", "1.2.840.113556.1.4.803:", "memberOf:1.2.840.113556.1.4.1941:=", "smtp:", "\U0001f600"}

// throwNames looks up random names made of such pieces, random bytes and
// changed real names. Whatever is found must be the entry that the name names.
func throwNames(t *testing.T, d backend.Directory, rounds int, named func(name string, e backend.Entry) bool) {
	t.Helper()
	r := mailtest.Rand(t)
	found, refused := 0, 0
	for range rounds {
		name := randomName(r)
		e, err := d.Lookup(t.Context(), name)
		switch {
		case backend.IsKind(err, backend.KindNotFound):
			refused++
		case err != nil:
			t.Fatalf("%q: %v", name, err)
		case !named(name, e):
			t.Fatalf("%q found %+v", name, e)
		default:
			found++
		}
	}
	if found == 0 || refused == 0 {
		t.Errorf("%d names, %d found, %d nobody's: the names are not varied enough", rounds, found, refused)
	}
	t.Logf("%d names, %d found, %d nobody's", rounds, found, refused)
}

func randomName(r *rand.Rand) string {
	var b strings.Builder
	for range 1 + r.IntN(4) {
		switch r.IntN(8) {
		case 0:
			b.WriteByte(byte(r.IntN(256)))
		case 1:
			b.WriteRune(rune(r.IntN(0x3000)))
		default:
			b.WriteString(pieces[r.IntN(len(pieces))])
		}
	}
	name := b.String()
	if r.IntN(4) == 0 {
		name = strings.ToUpper(name)
	}
	if r.IntN(8) == 0 {
		name = pieces[r.IntN(3)]
	}
	return name
}

// TestLDAPInjection is the fixed share of FuzzLDAPNames that every run has.
func TestLDAPInjection(t *testing.T) {
	t.Parallel()
	d := openLDAP(t, ldapOptions(startSlapd(t)))
	rounds := 5_000
	if mailtest.Soaking() {
		rounds = 1_000_000
	}
	throwNames(t, d, rounds, func(name string, e backend.Entry) bool {
		// mail is compared as IA5, whose preparation is the same
		p := prepared(name)
		return p == e.User || p == e.User+"@example.org"
	})
}
