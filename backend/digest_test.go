package backend

import (
	"testing"

	"github.com/emersion/go-imap/v2"
)

func TestSumMessageFoldsFlags(t *testing.T) {
	a := SumMessage(7, []imap.Flag{imap.FlagSeen, "Work", imap.FlagDeleted, `\Recent`})
	b := SumMessage(7, []imap.Flag{`\DELETED`, "WORK", `\seen`, "work"})
	if a != b {
		t.Error("order, case, repetition or \\Recent changes the sum")
	}
	if a == SumMessage(8, []imap.Flag{imap.FlagSeen, "Work", imap.FlagDeleted}) {
		t.Error("the UID does not count")
	}
	if SumMessage(1, []imap.Flag{"ab"}) == SumMessage(1, []imap.Flag{"a", "b"}) {
		t.Error("flags run into each other")
	}
}

func TestAddSubSum(t *testing.T) {
	var zero, sum [32]byte
	parts := [][32]byte{SumMessage(1, nil), SumMessage(2, nil), SumMessage(3, nil)}
	for i := range parts {
		parts[i][0], parts[i][31] = 0xFF, 0xFF // force carries
		AddSum(&sum, parts[i])
	}
	for _, i := range []int{1, 2, 0} {
		SubSum(&sum, parts[i])
	}
	if sum != zero {
		t.Errorf("sum is %x after taking all parts away", sum)
	}
}
