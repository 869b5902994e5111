package doctor

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"time"
)

const checkListen = "http.listen"

// listen looks whether the address is free, or answered by a relay.
func (n *notes) listen(ctx context.Context, address string, tlsOf func() (*tls.Config, error)) {
	if address == "" {
		n.ok(checkListen, "turned off")
		return
	}
	scheme := "http"
	var secure *tls.Config
	if tlsOf != nil {
		var err error
		if secure, err = tlsOf(); err != nil {
			n.fail(checkListen, err.Error(), "correct http.tls")
			return
		}
		scheme = "https"
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+address+"/livez", http.NoBody)
	if err != nil {
		n.fail(checkListen, err.Error(), "write http.listen as host:port")
		return
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: secure}}
	response, err := client.Do(request)
	if err == nil {
		_ = response.Body.Close() // nothing is read
		if response.StatusCode == http.StatusOK {
			n.ok(checkListen, "a relay answers at %s", address)
			return
		}
		n.fail(checkListen, fmt.Sprintf("something else answers at %s (%s)", address, response.Status), `set http.listen to a free address, or to "" for none`)
		return
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		n.fail(checkListen, fmt.Sprintf("no relay answers, and: %v", err), `set http.listen to a free address, or to "" for none`)
		return
	}
	_ = listener.Close() // it was only to be seen that it can be had
	n.ok(checkListen, "%s is free", address)
}
