package devstack

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"
)

// Authority is a certificate authority that lives as long as this process.
type Authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// TLS is what a server is given to speak TLS: its certificate and key, and the authorities whose clients' certificates it
// takes; all PEM.
type TLS struct{ Certificate, Key, CA []byte }

// IssueOptions say what a certificate is for. It is good for servers and for clients.
type IssueOptions struct {
	Name  string        // the common name, which is the user that a client logs in as
	Hosts []string      // names and addresses of a server
	For   time.Duration // how long it is valid from now; default a day; less than 0: it has expired
}

// NewAuthority makes an authority of that name.
func NewAuthority(name string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of authority %s: %w", name, err)
	}
	template := certificateTemplate(name, 24*time.Hour)
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make authority %s: %w", name, err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make authority %s: %w", name, err)
	}
	return &Authority{certificate: certificate, key: key}, nil
}

// Certificate is the authority's own, PEM: what the other side has to trust.
func (a *Authority) Certificate() []byte { return pemOf("CERTIFICATE", a.certificate.Raw) }

// Issue makes a certificate and its key, which is in PKCS 8, because Kafka reads nothing else.
func (a *Authority) Issue(o IssueOptions) (certificate, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make the key of %s: %w", o.Name, err)
	}
	valid := o.For
	if valid == 0 {
		valid = 24 * time.Hour
	}
	template := certificateTemplate(o.Name, valid)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, host := range o.Hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, private.Public(), a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("make the certificate of %s: %w", o.Name, err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, fmt.Errorf("make the key of %s: %w", o.Name, err)
	}
	return pemOf("CERTIFICATE", der), pemOf("PRIVATE KEY", pkcs8), nil
}

// ServerTLS makes what a server on this machine needs, reached as 127.0.0.1 or localhost, that takes clients of this authority.
func (a *Authority) ServerTLS() (*TLS, error) {
	certificate, key, err := a.Issue(IssueOptions{Name: "localhost", Hosts: []string{"localhost", "127.0.0.1"}})
	return &TLS{Certificate: certificate, Key: key, CA: a.Certificate()}, err
}

// certificateTemplate begins a little early, or a while ago for one that has expired.
func certificateTemplate(name string, valid time.Duration) *x509.Certificate {
	now := time.Now()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		serial = big.NewInt(now.UnixNano()) // crypto/rand does not fail; a number is all that is needed
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-48 * time.Hour),
		NotAfter:     now.Add(valid),
	}
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
