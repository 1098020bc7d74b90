package migrate

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Signature is an Ed25519 signature (RFC 8032) over a certificate. What is
// signed is the certificate's JSON without the signature, its keys sorted, in
// the compact form of encoding/json: no field that a later version adds goes
// unsigned.
type Signature struct {
	Algorithm string `json:"algorithm"` // "ed25519"
	Key       []byte `json:"key"`       // public
	Value     []byte `json:"value"`
}

// Fingerprint names a public key: SHA-256 in base64, as ssh has it.
func (s *Signature) Fingerprint() string { return fingerprint(s.Key) }

func fingerprint(public []byte) string {
	sum := sha256.Sum256(public)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// Signer signs certificates with a key that it keeps in a file.
type Signer struct{ key ed25519.PrivateKey }

// keyFile holds the engine's key, PKCS #8 in PEM.
const keyFile = "certificate.key"

// OpenSigner reads the key in dir, or makes one.
func OpenSigner(dir string) (*Signer, error) {
	path := filepath.Join(dir, keyFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return newSigner(dir, path)
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM block", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	k, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: a key of another kind than Ed25519", path)
	}
	return &Signer{k}, nil
}

func newSigner(dir, path string) (*Signer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := writeSynced(path+".new", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
		return nil, err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return nil, err
	}
	return &Signer{key}, syncDir(dir)
}

// Public is the key that checks the signatures.
func (s *Signer) Public() ed25519.PublicKey { return s.key.Public().(ed25519.PublicKey) }

// Fingerprint names the key.
func (s *Signer) Fingerprint() string { return fingerprint(s.Public()) }

// Sign sets c's signature.
func (s *Signer) Sign(c *Certificate) error {
	c.Signature = nil
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	text, _, err = signedPart(text)
	if err != nil {
		return err
	}
	c.Signature = &Signature{Algorithm: "ed25519", Key: s.Public(), Value: ed25519.Sign(s.key, text)}
	return nil
}

// certificate signs c and writes it.
func (e *Engine) certificate(b *batch, c *Certificate) error {
	if err := e.signer.Sign(c); err != nil {
		return err
	}
	return b.journal.certificate(c)
}

// certificateLine is certificate for a user in whom nothing changed.
func (e *Engine) certificateLine(b *batch, c *Certificate) error {
	if err := e.signer.Sign(c); err != nil {
		return err
	}
	return b.journal.certificateLine(c)
}

// CheckSignature checks a certificate as it was written (JSON). It proves that
// whoever holds the key that it names wrote it: compare the Fingerprint.
func CheckSignature(certificate []byte) (*Signature, error) {
	text, sig, err := signedPart(certificate)
	switch {
	case err != nil:
		return nil, err
	case sig == nil:
		return nil, errors.New("the certificate is not signed")
	case sig.Algorithm != "ed25519" || len(sig.Key) != ed25519.PublicKeySize:
		return sig, fmt.Errorf("unknown algorithm %q", sig.Algorithm)
	case !ed25519.Verify(sig.Key, text, sig.Value):
		return sig, errors.New("the signature does not fit: the certificate was changed")
	}
	return sig, nil
}

// signedPart is what a signature covers, and the signature.
func signedPart(certificate []byte) (text []byte, sig *Signature, err error) {
	var fields map[string]any
	d := json.NewDecoder(bytes.NewReader(certificate))
	d.UseNumber()
	if err := d.Decode(&fields); err != nil {
		return nil, nil, fmt.Errorf("no certificate: %w", err)
	}
	if s, ok := fields["signature"]; ok {
		raw, err := json.Marshal(s)
		if err == nil {
			err = json.Unmarshal(raw, &sig)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("signature: %w", err)
		}
		delete(fields, "signature")
	}
	text, err = json.Marshal(fields)
	return text, sig, err
}
