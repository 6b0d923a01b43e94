// Package tlsfiles makes TLS configurations from certificates and keys in files.
package tlsfiles

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync"
)

// Client are the settings of the connections that are made to a server.
type Client struct {
	CAFile   string `name:"ca-file" placeholder:"FILE" help:"PEM file with the authorities that must have signed the server's certificate, in place of those that the system trusts."`
	CertFile string `placeholder:"FILE" help:"PEM file with the certificate to show to the server. Read again when it changes."`
	KeyFile  string `placeholder:"FILE" help:"PEM file with that certificate's key."`
}

// Config returns the configuration of a client; nil, which means plain text, unless on. The
// error names the setting that is wrong, all of which begin with name.
func (c Client) Config(name string, on bool) (*tls.Config, error) {
	if !on {
		if cmp.Or(c.CAFile, c.CertFile, c.KeyFile) != "" {
			return nil, fmt.Errorf("%s: must be true where files for it are set", name)
		}
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		authorities, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("%s_CA_FILE: %w", name, err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(authorities) {
			return nil, fmt.Errorf("%s_CA_FILE: has no certificate in PEM", name)
		}
	}
	if c.CertFile == "" && c.KeyFile == "" {
		return config, nil
	}
	pair, err := load(name, c.CertFile, c.KeyFile)
	if err != nil {
		return nil, err
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair.get(), nil }
	return config, nil
}

// Server returns the configuration of a server that shows the certificate in certFile. The
// error names the setting that is wrong, all of which begin with name.
func Server(name, certFile, keyFile string) (*tls.Config, error) {
	pair, err := load(name, certFile, keyFile)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return pair.get(), nil },
	}, nil
}

// keyPair is a certificate with its key.
type keyPair struct {
	certFile, keyFile string

	mu      sync.Mutex
	last    *tls.Certificate // that could be read
	failing bool             // whether the files could not be read the last time
}

func load(name, certFile, keyFile string) (*keyPair, error) {
	if certFile == "" || keyFile == "" {
		return nil, fmt.Errorf("%s_CERT_FILE: needs %[1]s_KEY_FILE, and the other way round", name)
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("%s_CERT_FILE, %[1]s_KEY_FILE: %w", name, err)
	}
	return &keyPair{certFile: certFile, keyFile: keyFile, last: &pair}, nil
}

// get reads both files, as it must at each handshake to notice that they have changed.
// Where they cannot be read, or do not belong together yet, it returns the last pair that
// could.
func (k *keyPair) get() *tls.Certificate {
	k.mu.Lock()
	defer k.mu.Unlock()
	pair, err := tls.LoadX509KeyPair(k.certFile, k.keyFile)
	switch {
	case err != nil && !k.failing:
		slog.Warn("a certificate has changed, and the one before stays", "file", k.certFile, "err", err)
	case err == nil && !bytes.Equal(pair.Leaf.Raw, k.last.Leaf.Raw):
		slog.Info("a certificate has changed", "file", k.certFile, "until", pair.Leaf.NotAfter)
	}
	if k.failing = err != nil; !k.failing {
		k.last = &pair
	}
	return k.last
}
