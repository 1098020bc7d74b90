package mailtest

import (
	"strings"
	"testing"
)

// TestCyrusTakesAddresses: LMTP knows a user by the address of any domain, and
// Cyrus' own programs run against an instance.
func TestCyrusTakesAddresses(t *testing.T) {
	y := StartCyrus(t, CyrusOptions{Users: []string{"anna"}})
	d := StartDeliverer(t, DelivererOptions{Addr: y.LMTP, Recipients: []string{"anna@example.org", "anna"}, PerSecond: 50})
	d.Await(t, 4)
	journal := d.Stop()
	c := DialIMAP(t, y.IMAP)
	c.Login("anna", y.Password)
	for _, f := range DeliveryFaults(journal, MessageIDs(t, c, "INBOX")) {
		t.Error(f)
	}
	if out := y.Tool(t, "mbpath", "user.anna"); !strings.Contains(out, "/spool/") {
		t.Errorf("mbpath: %q", out)
	}
}
