package store

import "mailferry/cluster/engine"

func applyImportBegin(tx engine.Tx, d *decoder) ([]byte, error)     { return nil, errCorrupt }
func applyImportOpen(tx engine.Tx, d *decoder) ([]byte, error)      { return nil, errCorrupt }
func applyImportRemove(tx engine.Tx, d *decoder) ([]byte, error)    { return nil, errCorrupt }
func applyImportSubscribe(tx engine.Tx, d *decoder) ([]byte, error) { return nil, errCorrupt }
func applyImportPut(tx engine.Tx, d *decoder) ([]byte, error)       { return nil, errCorrupt }
func applyImportFlags(tx engine.Tx, d *decoder) ([]byte, error)     { return nil, errCorrupt }
func applyImportVanish(tx engine.Tx, d *decoder) ([]byte, error)    { return nil, errCorrupt }
func applyImportSeal(tx engine.Tx, d *decoder) ([]byte, error)      { return nil, errCorrupt }
func applyImportActivate(tx engine.Tx, d *decoder) ([]byte, error)  { return nil, errCorrupt }
func applyImportReopen(tx engine.Tx, d *decoder) ([]byte, error)    { return nil, errCorrupt }
