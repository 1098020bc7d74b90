package proxy

import (
	"context"
	"net"
	"testing"

	"mailferry/backend"
	"mailferry/internal/line"
	"mailferry/store"
	"mailferry/store/imapd"
	"mailferry/store/lmtpd"
	"mailferry/store/storetest"
)

// realOwn is our own store with its servers on sockets, so that a client can
// be in front of it without a proxy. The proxy logs in as it does in a node.
func realOwn(t *testing.T) realStore {
	t.Helper()
	e, err := storetest.NewEngine(store.NewMachine(), 2)
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.New(store.Options{Engine: e})
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range []string{"anna", "bert"} {
		if _, err := st.CreateUser(t.Context(), store.NewUser{Name: u, Aliases: []string{u + "@example.org"}}); err != nil {
			t.Fatal(err)
		}
	}
	wrong := backend.NewError(backend.KindAuthentication, "wrong")
	is, err := imapd.New(imapd.Options{Store: st, ClearLogin: true,
		Authenticate: func(_ context.Context, name string, p backend.Secret) (string, error) {
			if p != "secret" {
				return "", wrong
			}
			return name, nil
		},
		ProxyLogin: func(_ context.Context, name string, p backend.Secret) error {
			if name != "proxy" || p != "token" {
				return wrong
			}
			return nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	ls := lmtpd.New(lmtpd.Options{Deliverer: st})
	il, ll := listen(t), listen(t)
	served := make(chan error, 2)
	go func() { served <- is.Serve(il) }()
	go func() { served <- ls.Serve(ll) }()
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		for _, stop := range []func(context.Context) error{is.Shutdown, ls.Shutdown} {
			if err := stop(ctx); err != nil {
				t.Error(err)
			}
			if err := <-served; err != nil {
				t.Error(err)
			}
		}
		st.Close()
		e.Close()
	})
	return realStore{user: "anna", addr: il.Addr().String(), sep: "/",
		store: &backend.Store{Name: "old", Type: backend.StoreLocal, Address: "127.0.0.1", TLS: backend.TLSNone,
			Ports: map[backend.Protocol]int{backend.IMAP: portOf(t, il.Addr().String()), backend.LMTP: portOf(t, ll.Addr().String())},
			Login: backend.Login{Mode: backend.LoginAuthzid, User: "proxy", Secret: "token"}},
		options: func(o *Options) {
			o.Capabilities = map[string][]string{"old": imapd.Capabilities()}
			o.Deliverer = ownDeliverer{st}
			o.Connector = RemoteConnector{Dial: func(context.Context, string, string) (net.Conn, error) {
				ours, theirs := line.Pipe()
				go is.ServeConn(context.WithoutCancel(t.Context()), theirs, imapd.ConnInfo{Trusted: true})
				return ours, nil
			}}
		}}
}

// ownDeliverer files mail as a node does.
type ownDeliverer struct{ st *store.Store }

func (d ownDeliverer) Deliver(ctx context.Context, m Message) []error {
	return d.st.DeliverStream(ctx, m.From, m.Recipients, m.Open())
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}
