package app

import (
	"context"

	"mailferry/internal/admin"
)

func (a *App) buildMigration(context.Context) error { return nil }

func (a *App) resumeMoves(context.Context) error { return nil }

func (a *App) addMigrationService(*admin.Service) {}
