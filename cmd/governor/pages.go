package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-governor/governor/hcl/agentconfig"
	"github.com/nomad-governor/governor/internal/version"
	"github.com/nomad-governor/governor/quotaagent/agent"
	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/audit"
	"github.com/nomad-governor/governor/quotaagent/gate"
	"github.com/nomad-governor/governor/quotaagent/report"
	"github.com/nomad-governor/governor/quotaagent/web"
)

// newPages are the pages for people; nil where they are off.
func newPages(config agentconfig.Config, g *gate.Gate, a *agent.Agent, placement *placer, logger hclog.Logger) http.Handler {
	if !config.ServesPages() {
		return nil
	}
	s := pageSource{agent: a, placement: placement}
	log := logger.Named("web")
	return web.New(web.Config{Door: pageDoor{g, log}, Books: s, Past: s, Rules: s, Cluster: s, Audit: s, Now: time.Now, Version: version.String(),
		Zone: func() *time.Location { return a.Keeper.State().Policy.Location },
		Failed: func(r *http.Request, err error) {
			log.Warn("page without all that it shows", "path", r.URL.Path, "error", err)
		}})
}

// pageDoor says who looks, by the rules of the API.
type pageDoor struct {
	gate *gate.Gate
	log  hclog.Logger
}

// Enter implements web's door.
func (d pageDoor) Enter(r *http.Request) (web.Viewer, error) {
	_, status, sentence := authorize(d.gate)(r, api.Read)
	if status == http.StatusForbidden {
		return web.Viewer{}, &web.Problem{Status: status, Text: sentence}
	}
	id, reads, err := d.gate.Sees(r)
	if status != 0 || err != nil {
		d.log.Warn("nobody is let in", "error", cmp.Or(sentence, fmt.Sprint(err)))
		return web.Viewer{}, &web.Problem{Status: http.StatusServiceUnavailable, Text: "Nomad cannot be asked who you are and what your token may read. What runs is not touched by that."}
	}
	v := web.Viewer{Name: cmp.Or(id.Accessor, "anonymous"), Open: slices.Contains(id.Names, gate.NameACLDisabled), Reads: reads}
	v.Manages = v.Open || slices.Contains(id.Names, "type:management")
	for _, name := range id.Names {
		if token, ok := strings.CutPrefix(name, "token:"); ok {
			v.Name = token
		}
	}
	return v, nil
}

// pageSource is what the pages show: what the API answers, in the pages' own types.
type pageSource struct {
	agent     *agent.Agent
	placement *placer
}

// shownError makes an error that is for its reader one of the pages.
func shownError(err error) error {
	var p *api.Problem
	if errors.As(err, &p) {
		return &web.Problem{Status: p.Status, Text: p.Text}
	}
	return err
}

// Overview implements web's books.
func (s pageSource) Overview(ctx context.Context) (*web.Overview, error) {
	status, err := s.agent.Status(ctx)
	if err != nil {
		return nil, err
	}
	waiting, err := s.agent.Engine.Queue(ctx, "")
	if err != nil {
		return nil, err
	}
	return overviewOf(status, waiting), nil
}

// Job implements web's books.
func (s pageSource) Job(ctx context.Context, namespace, id string) (web.JobDetail, error) {
	now, err := s.agent.JobNow(ctx, namespace, id)
	return jobDetailOf(now), shownError(err)
}

// Overrides implements web's books.
func (s pageSource) Overrides(ctx context.Context) ([]web.Override, error) {
	found, err := s.agent.Engine.Overrides(ctx)
	if err != nil {
		return nil, shownError(err)
	}
	return mapped(found, overrideOf), nil
}

// Statement implements web's past.
func (s pageSource) Statement(ctx context.Context, q report.Query) (report.Statement, error) {
	statement, err := s.agent.Statement(ctx, q)
	return statement, shownError(err)
}

// Receipts implements web's past.
func (s pageSource) Receipts(ctx context.Context, namespace, job string, limit int) ([]report.Receipt, error) {
	receipts, err := s.agent.Receipts(ctx, namespace, job, limit)
	return receipts, shownError(err)
}

// Decisions implements web's past.
func (s pageSource) Decisions(ctx context.Context, limit int) (web.Decisions, error) {
	found, err := s.agent.Decisions(ctx, "", "", limit)
	return web.Decisions{List: mapped(found.Decisions, decisionOf), Incomplete: found.Incomplete}, shownError(err)
}

// Decision implements web's past.
func (s pageSource) Decision(ctx context.Context, id string) (*web.DecisionDetail, error) {
	found, err := s.agent.Decision(ctx, id)
	var p *api.Problem
	if errors.As(err, &p) && (p.Status == http.StatusNotFound || p.Status == http.StatusBadRequest) {
		return nil, nil
	}
	if err != nil {
		return nil, shownError(err)
	}
	return &web.DecisionDetail{Decision: decisionOf(found.DecisionRow), Request: found.Request, Source: found.Source, Revision: found.Revision,
		Meaning: found.Meaning, Author: found.Author, Operator: found.Operator, Agent: found.Agent}, nil
}

// Forecast implements web's past.
func (s pageSource) Forecast(ctx context.Context) (web.Forecast, error) {
	c, err := s.agent.Forecast(ctx)
	return web.Forecast{Forecast: c.Forecast, Days: c.Days, Incomplete: c.Incomplete}, shownError(err)
}

// Budget implements web's rules.
func (s pageSource) Budget(path string) *web.Detail {
	p := s.agent.Keeper.State().Policy
	b := p.Find(path)
	if b == nil {
		return nil
	}
	d := &web.Detail{Path: b.Path, Description: b.Description, Owner: b.Owner, Source: b.Source.String(), Settings: b.EffectiveSettings(p.Currency)}
	for _, child := range b.Children {
		d.Children = append(d.Children, child.Path)
	}
	return d
}

// Policy implements web's rules.
func (s pageSource) Policy() web.Policy { return policyOf(s.agent.Keeper.State()) }

// Revisions implements web's rules.
func (s pageSource) Revisions(ctx context.Context) ([]web.Revision, error) {
	found, err := s.agent.Keeper.History(ctx)
	return mapped(found, revisionOf), shownError(err)
}

// Map implements web's cluster.
func (s pageSource) Map(ctx context.Context) (*web.Cluster, error) {
	m, err := s.placement.clusterMap(ctx)
	if err != nil {
		return nil, err
	}
	return pageCluster(m, s.agent.Utilization(ctx)), nil
}

// Records implements web's audit log.
func (s pageSource) Records(ctx context.Context, from uint64) ([]audit.Record, uint64, error) {
	log, err := s.agent.AuditLog(ctx, from)
	return log.Records, log.Head.Seq, shownError(err)
}
