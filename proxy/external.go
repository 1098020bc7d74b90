package proxy

import (
	"crypto/tls"

	"mailferry/internal/line"
)

const mechExternal = "EXTERNAL" // RFC 4422, appendix A

// certified is whom the client's certificate proves.
type certified struct {
	asked bool
	user  string
}

// certified is the user whom the client's certificate proves, empty without
// one. It is found out once.
func (f *front) certified() string {
	if f.p.o.Certify == nil || f.cert.asked {
		return f.cert.user
	}
	state, on := f.c.TLS()
	if !on {
		return ""
	}
	f.cert.asked = true
	if len(state.PeerCertificates) == 0 {
		return ""
	}
	user, err := f.p.o.Certify(state.PeerCertificates)
	if err != nil {
		f.log.Info("certificate of a client is of no use", "subject", state.PeerCertificates[0].Subject.String(), "error", err)
		return ""
	}
	f.cert.user = user
	return user
}

// askCertificate has the TLS server ask clients for a certificate. One that is
// of no use ends no handshake: its owner may have a password.
func (p *Proxy) askCertificate(c *tls.Config) {
	if p.o.Certify != nil {
		c.ClientAuth = tls.RequestClientCert
	}
}

// saslExternal takes the certificate's word. The message is whom to act as:
// nobody, or the same user.
func saslExternal(f *front, next saslNext) (credentials, error) {
	msg, err := next("")
	if err != nil {
		return credentials{}, err
	}
	c := credentials{user: f.certified(), proven: true}
	if authzid := string(msg); authzid != "" && authzid != c.user {
		if !line.ValidCredential(authzid) {
			return credentials{}, line.ErrSASL
		}
		c.user = "" // acting for somebody else is not offered
	}
	return c, nil
}
