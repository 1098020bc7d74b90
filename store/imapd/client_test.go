package imapd_test

import (
	"context"
	"io"
	"testing"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"mailferry/internal/line"
	"mailferry/store/imapd"
)

// TestIndependentClient lets go-imap's client do a day's work.
func TestIndependentClient(t *testing.T) {
	w := newWorld(t)
	a, b := line.Pipe()
	go w.server.ServeConn(context.Background(), b, imapd.ConnInfo{Trusted: true})
	expunged := make(chan uint32, 10)
	c := imapclient.New(a, &imapclient.Options{UnilateralDataHandler: &imapclient.UnilateralDataHandler{
		Expunge: func(seq uint32) { expunged <- seq }}})
	defer c.Close()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.Login("anna", "secret").Wait())
	for _, subject := range []string{"one", "two", "three"} {
		m := mail(subject)
		cmd := c.Append("INBOX", int64(len(m)), &imap.AppendOptions{Flags: []imap.Flag{imap.FlagFlagged}})
		io.WriteString(cmd, m)
		must(cmd.Close())
		_, err := cmd.Wait()
		must(err)
	}
	boxes, err := c.List("", "*", &imap.ListOptions{ReturnStatus: &imap.StatusOptions{NumMessages: true}}).Collect()
	must(err)
	if len(boxes) != 6 || boxes[0].Status == nil || *boxes[0].Status.NumMessages != 3 {
		t.Errorf("LIST: %d mailboxes, %+v", len(boxes), boxes[0])
	}
	sel, err := c.Select("INBOX", &imap.SelectOptions{CondStore: true}).Wait()
	must(err)
	if sel.NumMessages != 3 || sel.HighestModSeq == 0 {
		t.Errorf("SELECT: %+v", sel)
	}
	section := &imap.FetchItemBodySection{Part: []int{1}}
	msgs, err := c.Fetch(imap.SeqSetNum(1, 2, 3), &imap.FetchOptions{Envelope: true, Flags: true, UID: true, InternalDate: true,
		RFC822Size: true, BodyStructure: &imap.FetchItemBodyStructure{Extended: true}, BodySection: []*imap.FetchItemBodySection{section}, ModSeq: true}).Collect()
	must(err)
	if len(msgs) != 3 || msgs[1].Envelope.Subject != "two" || string(msgs[1].FindBodySection(section)) != "Hello two\r\n" || msgs[2].BodyStructure.MediaType() != "text/plain" {
		t.Errorf("FETCH: %+v", msgs)
	}
	found, err := c.UIDSearch(&imap.SearchCriteria{Header: []imap.SearchCriteriaHeaderField{{Key: "Subject", Value: "TWO"}}}, &imap.SearchOptions{ReturnAll: true}).Wait()
	must(err)
	if uids := found.AllUIDs(); len(uids) != 1 || uids[0] != 2 {
		t.Errorf("SEARCH: %v", uids)
	}
	moved, err := c.Move(imap.UIDSetNum(2), "Archive").Wait()
	must(err)
	if moved == nil || <-expunged != 2 {
		t.Errorf("MOVE: %+v", moved)
	}
	must(c.Store(imap.SeqSetNum(1), &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.FlagDeleted}}, nil).Close())
	_, err = c.Expunge().Collect()
	must(err)
	idle, err := c.Idle()
	must(err)
	must(idle.Close())
	must(idle.Wait())
	must(c.Logout().Wait())
}
