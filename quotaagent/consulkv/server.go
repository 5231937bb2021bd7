package consulkv

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/hashicorp/consul/api"
)

// Server is what keeps the ledger, and its version. Consul tells it to tokens with
// agent:read, which the store itself does not need.
func (s *Store) Server(ctx context.Context) (name, version string, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var self struct {
		Config struct{ Version string }
	}
	_, err = s.client.Raw().Query("/v1/agent/self", &self, (&api.QueryOptions{}).WithContext(ctx))
	var status api.StatusError
	switch {
	case errors.As(err, &status) && status.Code == http.StatusForbidden:
		return "consul", "", errors.New("the agent's Consul token may not read agents (agent:read)")
	case err != nil:
		return "consul", "", fmt.Errorf("ask consul for its version: %w", classify(err))
	}
	return "consul", self.Config.Version, nil
}
