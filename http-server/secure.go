package main

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// tlsFiles are those of the connections that are made to a server.
type tlsFiles struct {
	CAFile   string `name:"ca-file" placeholder:"FILE" help:"PEM file with the certificates that its own must be signed by, instead of those that the system trusts."`
	CertFile string `placeholder:"FILE" help:"PEM file with the certificate to show to it. Read again when it changes."`
	KeyFile  string `placeholder:"FILE" help:"PEM file with that certificate's key."`
}

// client gives what connections are made with; nil, which is plain text, where on is
// false. The error names the setting that is wrong, all of which begin with name.
func (f tlsFiles) client(name string, on bool) (*tls.Config, error) {
	if !on {
		if cmp.Or(f.CAFile, f.CertFile, f.KeyFile) != "" {
			return nil, fmt.Errorf("%s: must be true where files for it are set", name)
		}
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.CAFile != "" {
		authorities, err := os.ReadFile(f.CAFile)
		if err != nil {
			return nil, fmt.Errorf("%s_CA_FILE: %w", name, err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(authorities) {
			return nil, fmt.Errorf("%s_CA_FILE: has no certificate in PEM", name)
		}
	}
	if f.CertFile == "" && f.KeyFile == "" {
		return c, nil
	}
	own, err := loadKeyPair(name, f.CertFile, f.KeyFile)
	if err != nil {
		return nil, err
	}
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own.get(), nil }
	return c, nil
}

// keyPair is a certificate with its key, read again when their files change.
type keyPair struct {
	certFile, keyFile string

	mu      sync.Mutex
	current *tls.Certificate
	looked  time.Time
	changed [2]time.Time // when the files did, as of the last look
}

// lookEvery is how often files are looked at, at most.
const lookEvery = time.Second

// loadKeyPair reads both files. The error names the setting that is wrong, all of which
// begin with name.
func loadKeyPair(name, certFile, keyFile string) (*keyPair, error) {
	if certFile == "" || keyFile == "" {
		return nil, fmt.Errorf("%s_CERT_FILE: needs %[1]s_KEY_FILE, and the other way round", name)
	}
	k := &keyPair{certFile: certFile, keyFile: keyFile}
	if err := errors.Join(k.look(), k.load()); err != nil {
		return nil, fmt.Errorf("%s_CERT_FILE, %[1]s_KEY_FILE: %w", name, err)
	}
	return k, nil
}

// get gives the certificate as it is now. Where the files can no longer be read, or do
// not belong together yet, it stays the one before.
func (k *keyPair) get() *tls.Certificate {
	k.mu.Lock()
	defer k.mu.Unlock()
	if time.Since(k.looked) < lookEvery {
		return k.current
	}
	before := k.changed
	if err := k.look(); err != nil || k.changed == before {
		return k.current
	}
	if err := k.load(); err != nil {
		slog.Warn("a certificate has changed, and the one before stays", "file", k.certFile, "err", err)
	} else {
		slog.Info("a certificate has changed", "file", k.certFile, "until", k.current.Leaf.NotAfter)
	}
	return k.current
}

func (k *keyPair) look() error {
	k.looked = time.Now()
	cert, err := os.Stat(k.certFile)
	if err != nil {
		return err
	}
	key, err := os.Stat(k.keyFile)
	if err != nil {
		return err
	}
	k.changed = [2]time.Time{cert.ModTime(), key.ModTime()}
	return nil
}

func (k *keyPair) load() error {
	pair, err := tls.LoadX509KeyPair(k.certFile, k.keyFile)
	if err == nil {
		k.current = &pair
	}
	return err
}

// password is what a file holds, without the newline that editors leave.
func password(file []byte) string { return strings.TrimRight(string(file), "\r\n") }

// reachable tells whether any of the addresses, host:port or a URL, may be reached from
// beyond this machine.
func reachable(addresses ...string) bool {
	return slices.ContainsFunc(addresses, func(address string) bool {
		host, _, err := net.SplitHostPort(address[strings.LastIndex(address, "/")+1:])
		return err != nil || host != "localhost" && !net.ParseIP(host).IsLoopback()
	})
}

// risks lists those that are taken.
func risks(taken map[string]bool) []string {
	return slices.Sorted(func(yield func(string) bool) {
		for risk, is := range taken {
			if is && !yield(risk) {
				return
			}
		}
	})
}
