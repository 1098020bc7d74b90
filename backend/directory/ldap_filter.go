package directory

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
)

// errFilterShape: a filter that only the server can answer.
var errFilterShape = errors.New("the filter cannot be answered from a replica: compare names with = alone, " +
	"and join what does not depend on the name by & at the top")

// testedAttributes lists the attributes that a configured filter compares with
// the name or its parts, and says whether a replica can answer such a filter:
// each test of a name is an equality, and all else is joined by & at the top,
// so that it is true for every entry that the listing filter finds.
func testedAttributes(filter string) (names []string, err error) {
	p, err := ldap.CompileFilter(filter)
	if err != nil {
		return nil, err
	}
	var walk func(p *ber.Packet, top bool) error
	walk = func(p *ber.Packet, top bool) error {
		switch p.Tag {
		case ldap.FilterAnd, ldap.FilterOr:
			top = top && p.Tag == ldap.FilterAnd
			for _, c := range p.Children {
				if err := walk(c, top); err != nil {
					return err
				}
			}
			return nil
		}
		named := namesUser(p)
		if p.Tag == ldap.FilterEqualityMatch && named {
			if attr := strings.ToLower(childText(p, 0)); !slices.Contains(names, attr) {
				names = append(names, attr)
			}
			return nil
		}
		if named || !top {
			return errFilterShape
		}
		return nil
	}
	err = walk(p, true)
	return names, err
}

func namesUser(p *ber.Packet) bool {
	b := p.Data.String()
	for _, c := range p.Children {
		if namesUser(c) {
			return true
		}
	}
	return strings.Contains(b, "{user}") || strings.Contains(b, "{local}") || strings.Contains(b, "{domain}")
}

func childText(p *ber.Packet, i int) string {
	if i >= len(p.Children) {
		return ""
	}
	return p.Children[i].Data.String()
}

// test is a filter in which only equality of known attributes counts.
type test struct {
	op    ber.Tag // ldap.FilterAnd, Or or EqualityMatch; else always true
	sub   []test
	attr  string // lower case
	value string // folded
}

// compileTest reads a filter with a name in it. names are the attributes that
// can be tested.
func compileTest(filter string, names []string) (test, error) {
	p, err := ldap.CompileFilter(filter)
	if err != nil {
		return test{}, fmt.Errorf("filter %q: %w", filter, err)
	}
	return testOf(p, names), nil
}

const alwaysTrue = ber.Tag(99)

func testOf(p *ber.Packet, names []string) test {
	t := test{op: alwaysTrue}
	switch p.Tag {
	case ldap.FilterAnd, ldap.FilterOr:
		t.op = p.Tag
		for _, c := range p.Children {
			t.sub = append(t.sub, testOf(c, names))
		}
	case ldap.FilterEqualityMatch:
		if attr := strings.ToLower(childText(p, 0)); slices.Contains(names, attr) {
			t.op, t.attr, t.value = p.Tag, attr, fold(childText(p, 1))
		}
	}
	return t
}

// leaves calls fn for each equality.
func (t test) leaves(fn func(attr, value string)) {
	if t.op == ldap.FilterEqualityMatch {
		fn(t.attr, t.value)
	}
	for _, s := range t.sub {
		s.leaves(fn)
	}
}

// fits reports whether an entry passes.
func (t test) fits(in *ldap.Entry) bool {
	switch t.op {
	case ldap.FilterAnd:
		for _, s := range t.sub {
			if !s.fits(in) {
				return false
			}
		}
	case ldap.FilterOr:
		return slices.ContainsFunc(t.sub, func(s test) bool { return s.fits(in) })
	case ldap.FilterEqualityMatch:
		return slices.ContainsFunc(in.GetEqualFoldAttributeValues(t.attr), func(v string) bool { return fold(v) == t.value })
	}
	return true
}
