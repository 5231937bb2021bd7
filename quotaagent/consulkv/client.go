package consulkv

import (
	"fmt"
	"io"
	"net/http"

	"github.com/hashicorp/consul/api"
)

// connect makes the client: the environment's settings, overlaid with ours.
func (s *Store) connect(config Config) error {
	c := api.DefaultConfig()
	set := func(field *string, value string) {
		if value != "" {
			*field = value
		}
	}
	set(&c.Address, config.Address)
	set(&c.Datacenter, config.Datacenter)
	if config.Token != "" {
		c.Token, c.TokenFile = config.Token, ""
	}
	set(&c.TLSConfig.CAFile, config.TLS.CAFile)
	set(&c.TLSConfig.CertFile, config.TLS.CertFile)
	set(&c.TLSConfig.KeyFile, config.TLS.KeyFile)
	set(&c.TLSConfig.Address, config.TLS.ServerName)
	if config.TLS.SkipVerify {
		c.TLSConfig.InsecureSkipVerify = true
	}
	if config.TLS != (TLS{}) {
		c.Scheme = "https"
	}
	c.Transport.MaxIdleConnsPerHost = maxIdleConns
	c.Transport.DisableCompression = true // Consul's time is worth more than the way to it
	client, err := api.NewHttpClient(c.Transport, c.TLSConfig)
	if err != nil {
		return err
	}
	if t := c.TLSConfig; config.NewDialer != nil && t.CAPath == "" && len(t.CAPem)+len(t.CertPEM)+len(t.KeyPEM) == 0 {
		c.Transport.DialTLSContext, err = config.NewDialer(TLS{CAFile: t.CAFile, CertFile: t.CertFile, KeyFile: t.KeyFile,
			ServerName: t.Address, SkipVerify: t.InsecureSkipVerify})
		if err != nil {
			return err
		}
	}
	client.Transport = statusTransport{next: c.Transport}
	c.HttpClient = client
	if s.client, err = api.NewClient(c); err != nil {
		return err
	}
	s.idle = c.Transport.CloseIdleConnections
	return nil
}

// errorBodyMax bounds what is kept of an error's text.
const errorBodyMax = 4 << 10

// statusTransport turns answers that are errors into api.StatusError in one
// place: the client's transaction call would drop the status code, which tells
// a refusal from an outage. 404 and 409 are answers that the client reads.
type statusTransport struct {
	next http.RoundTripper
}

func (t statusTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := t.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	switch {
	case response.StatusCode < 400, response.StatusCode == http.StatusNotFound, response.StatusCode == http.StatusConflict:
		return response, nil
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, errorBodyMax))
	if err != nil {
		return nil, fmt.Errorf("read the text of status %d: %w", response.StatusCode, err)
	}
	return nil, api.StatusError{Code: response.StatusCode, Body: string(body)}
}
