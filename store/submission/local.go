package submission

import (
	"context"

	"mailferry/backend"
	"mailferry/store"
)

// LocalUsers is the Authenticator of a store's own users.
type LocalUsers struct{ Store *store.Store }

// Authenticate implements Authenticator.
func (l LocalUsers) Authenticate(ctx context.Context, name string, p backend.Secret) (string, error) {
	u, err := l.Store.Authenticate(ctx, name, p)
	return u.Name, err
}

// Owns implements Authenticator: the user's name and aliases, with any detail.
func (l LocalUsers) Owns(ctx context.Context, user, address string) (bool, error) {
	name, err := l.Store.Recipient(ctx, address)
	switch {
	case err == nil:
		return name == user, nil
	case backend.IsKind(err, backend.KindNotFound), backend.IsKind(err, backend.KindPermission):
		return false, nil
	default:
		return false, err
	}
}
