package agentconfig

// Web says whether the agent serves pages for people under /governor/.
type Web struct {
	// Enabled is true by default. The HTTP API under /governor/v1/ is served anyway.
	Enabled *bool `hcl:"enabled,optional"`
}

// ServesPages reports whether the pages are on.
func (c Config) ServesPages() bool { return c.Web == nil || c.Web.Enabled == nil || *c.Web.Enabled }
