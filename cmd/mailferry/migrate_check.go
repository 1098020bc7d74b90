package main

import (
	"fmt"

	"mailferry/migrate"
)

func (c *cli) checkCertificate(file string, text []byte, key string) error {
	sig, err := migrate.CheckSignature(text)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if key != "" && sig.Fingerprint() != key {
		return fmt.Errorf("%s: signed by another key, %s", file, sig.Fingerprint())
	}
	return c.done("%s: signed by %s", file, sig.Fingerprint())
}
