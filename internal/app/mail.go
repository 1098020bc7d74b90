package app

import (
	"context"

	"mailferry/internal/admin"
	"mailferry/internal/config"
)

// proxyNodes names the nodes whose proxies must confirm a hold.
func (a *App) proxyNodes() []string {
	if !a.conf.HasRole(config.RoleProxy) {
		return nil
	}
	return []string{a.conf.Node}
}

func (a *App) buildMail(context.Context) error { return nil }

func (a *App) addProxyService(*admin.Service) {}
