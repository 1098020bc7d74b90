package proxy

import (
	"crypto/rand"
	"crypto/tls"
	"sync"
	"time"
)

// A key seals session tickets for half of its life and then only opens those
// that it sealed.
const (
	ticketKeySeals = 12 * time.Hour
	ticketKeyLife  = 24 * time.Hour
)

// ticketKeys are those of one TLS configuration, the newest first. Those that
// crypto/tls changes on its own open tickets for a week, which is for how long
// who gets hold of them could read sessions of TLS 1.2.
type ticketKeys struct {
	mu   sync.Mutex
	keys []ticketKey
}

type ticketKey struct {
	key  [32]byte
	made time.Time
}

// rotateTickets has c change its keys at the first handshake after they are
// due. It takes c's GetConfigForClient; nobody may set other keys.
func rotateTickets(c *tls.Config) {
	k := &ticketKeys{}
	c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		if keys := k.due(time.Now()); keys != nil {
			c.SetSessionTicketKeys(keys)
		}
		return nil, nil //nolint:nilnil // c goes on
	}
}

// due is what the keys have changed to, nil when they stay.
func (k *ticketKeys) due(now time.Time) (all [][32]byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := len(k.keys)
	if n > 0 && now.Sub(k.keys[0].made) < ticketKeySeals && now.Sub(k.keys[n-1].made) < ticketKeyLife {
		return nil
	}
	var valid []ticketKey
	if n == 0 || now.Sub(k.keys[0].made) >= ticketKeySeals {
		fresh := ticketKey{made: now}
		_, _ = rand.Read(fresh.key[:]) // never fails
		valid = append(valid, fresh)
	}
	for _, old := range k.keys {
		if now.Sub(old.made) < ticketKeyLife {
			valid = append(valid, old)
		}
	}
	k.keys = valid
	for _, v := range valid {
		all = append(all, v.key)
	}
	return all
}
