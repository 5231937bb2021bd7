package gate

import (
	"net/url"
	"strings"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-governor/governor/quotaagent/jobspec"
)

// linkLabel is what the link to Governor's page is called in the job's ui block.
const linkLabel = "Governor"

// link adds a link to Governor's page to the ui block of a GPU job, as if its author had
// written it: Nomad's UI shows it. A changed ui block is a new version for Nomad, so that
// the link comes with a job's first registration only, or when it comes back after it was
// stopped. From then on it is written again into every submission exactly as it is stored,
// also where new jobs get none any more, and a job that is registered without one stays
// without: the same job submitted again is the same for Nomad.
func (g *Gate) link(s *submission) {
	if s.doc == nil || len(s.ask.Groups) == 0 || s.scope.region != g.config.Region {
		return
	}
	path := "/governor/jobs/" + url.PathEscape(s.ask.Namespace) + "/" + url.PathEscape(s.ask.JobID)
	if linkOf(s.job, path) != nil {
		return // its author has taken it over
	}
	var add *api.JobUILink
	if s.stored != nil && (s.stored.Stop == nil || !*s.stored.Stop) {
		add = linkOf(s.stored, path)
	} else if g.config.JobLink != "" {
		add = &api.JobUILink{Label: linkLabel, URL: strings.TrimSuffix(g.config.JobLink, "/") + path}
	}
	if add == nil {
		return
	}
	if err := jobspec.AddUILink(s.doc, add.Label, add.URL); err != nil {
		g.logger.Debug("no link to Governor added", "job_id", s.ask.JobID, "error", err)
		return
	}
	if s.job.UI == nil {
		s.job.UI = &api.JobUIConfig{}
	}
	s.job.UI.Links = append(s.job.UI.Links, &api.JobUILink{Label: add.Label, URL: add.URL})
}

// linkOf is the link of a job to Governor's page with a path, wherever that was served.
func linkOf(job *api.Job, path string) *api.JobUILink {
	if job == nil || job.UI == nil {
		return nil
	}
	for _, l := range job.UI.Links {
		if l != nil && l.Label == linkLabel && strings.HasSuffix(l.URL, path) {
			return l
		}
	}
	return nil
}
