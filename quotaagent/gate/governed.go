package gate

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/nomad-governor/governor/quotaagent/jobspec"
)

// submission is one governed request on its way.
type submission struct {
	kind    Kind
	doc     *jobspec.Document
	request jobspec.Request
	scope   scope
	token   string
	// lent is the gate's own token, where it is used instead of the user's.
	lent   string
	stored *api.Job
	// fresh says that nothing may be remembered, as Submission.Fresh, and recalled that
	// the stored job was.
	fresh, recalled bool
	// raw is the body where it is no document.
	raw []byte
	// launch is the idempotency token of a dispatch, and ownToken says that the gate
	// has chosen it.
	launch   string
	ownToken bool
	// old is the version that a revert brings back without the pins of its time, and
	// version its number; unpinned says that it had some.
	old      *jobspec.Stored
	version  uint64
	unpinned bool
	// explain asks for the Admitter's account.
	explain bool
	// since is Submission.Since.
	since time.Time
	// materialised says that a revert is sent as the registration.
	materialised bool
	registration []byte
	// job is the effective job, canonical, with the effective scope.
	job *api.Job
	ask jobspec.Ask
}

// governed decides about a registration, a plan or a validation: again when the job
// that it was decided about as is another one by the time that it reaches Nomad.
func (g *Gate) governed(w http.ResponseWriter, r *http.Request, route Route) error {
	body, err := g.readBody(w, r)
	if err != nil {
		return err
	}
	for try := range decideMax {
		s, err := g.parse(r, route, body)
		if err != nil {
			return refuseBody(err)
		}
		s.fresh = try > 0 || s.kind != Plan
		if err = g.govern(w, r, route, s); err == nil || !s.recalled && !errors.Is(err, errChanged) {
			return err
		}
		g.logger.Debug("job changed while it was decided about", "namespace", s.ask.Namespace, "job_id", s.ask.JobID)
	}
	return refuse(http.StatusServiceUnavailable, ReasonUndecided, "The job changed %d times while Governor decided about it. Nothing was registered. Look at it, and submit it again.", decideMax)
}

// decideMax is how often a submission is decided about at most.
const decideMax = 3

func (g *Gate) govern(w http.ResponseWriter, r *http.Request, route Route, s *submission) error {
	wantsGPU, err := g.resolve(r.Context(), s)
	if err != nil {
		return err
	}
	if err := g.authorize(r.Context(), s); err != nil {
		return err
	}
	if err := s.bind(); err != nil {
		return err
	}
	if !wantsGPU {
		return g.hand(w, r, s)
	}
	g.link(s)
	verdict, err := g.decide(r.Context(), s)
	if err != nil {
		return err
	}
	g.logger.Debug("decided", "namespace", s.ask.Namespace, "job_id", s.ask.JobID, "route", route.Kind.String(),
		"gpus", s.ask.GPUs(), "denied", verdict.Denied, "reason", verdict.Reason)
	return g.carryOut(w, r, s, verdict)
}

// decide asks the Admitter.
func (g *Gate) decide(ctx context.Context, s *submission) (Verdict, error) {
	return g.decideFor(ctx, s, func(ctx context.Context) (Identity, error) { return g.identities.identify(ctx, s.token) })
}

func (g *Gate) decideFor(ctx context.Context, s *submission, identify func(context.Context) (Identity, error)) (Verdict, error) {
	if s.scope.region != g.config.Region {
		if len(s.ask.Groups) == 0 {
			return Verdict{}, nil // a job of the same id may be held here: it is another one
		}
		refused := refuseRegion(s.ask.JobID, s.scope.region, g.config.Region)
		return Verdict{Denied: true, Reason: refused.reason, Message: refused.text}, nil
	}
	identity, err := identify(ctx)
	if err != nil {
		return Verdict{}, err
	}
	stored := s.stored
	if s.kind.Launches() {
		stored = nil // what is launched is a job of its own
	}
	ctx, span := StartSpan(ctx, "admit", trace.SpanKindInternal)
	verdict, err := g.config.Admitter.Admit(ctx, Submission{
		Kind: s.kind, Ask: s.ask, Job: s.job, Stored: stored, Identity: identity,
		KeepsResources: s.request.PreserveResources, PolicyOverride: s.request.PolicyOverride, LaunchToken: s.launch,
		Fresh: s.fresh, Explain: s.explain, Since: s.since,
	})
	if span.IsRecording() {
		span.SetAttributes(attribute.Bool("governor.denied", verdict.Denied), attribute.String("governor.reason", verdict.Reason))
	}
	endSpan(span, err)
	if err == nil {
		return verdict, nil
	}
	g.logger.Warn("could not decide", "namespace", s.ask.Namespace, "job_id", s.ask.JobID, "error", err)
	undecided := refuseUndecided(s.ask.JobID, err)
	if s.kind == Validate {
		// The stock CLI takes an error here for a lost connection, and validates
		// on its own without a word.
		return Verdict{Warnings: []string{undecided.text}}, nil
	}
	return Verdict{}, undecided
}

// lookUp is the stored job of a submission: for a plan as it was lately, if that is
// known.
func (g *Gate) lookUp(ctx context.Context, s *submission) (*api.Job, error) {
	id := *s.job.ID
	if s.kind != Plan || s.scope.region != g.config.Region || jobSuffix(id) != "" {
		return g.nomad.job(ctx, id, s.scope, s.token)
	}
	key := s.key()
	if job, known := g.known.recall(key); known && !s.fresh {
		s.recalled = true
		return job, nil
	}
	begin := g.known.now()
	job, size, err := g.nomad.sizedJob(ctx, id, s.scope, s.token)
	if err == nil {
		g.known.keep(key, job, size, begin)
	}
	return job, err
}

// parse reads the body and computes what Nomad would compute from it.
func (g *Gate) parse(r *http.Request, route Route, body []byte) (*submission, error) {
	s := &submission{}
	var err error
	switch route.Kind {
	case RoutePlan:
		s.kind = Plan
		s.doc, s.request, err = jobspec.ParsePlan(body)
	case RouteValidate:
		s.kind = Validate
		s.doc, s.request, err = jobspec.ParseValidate(body)
	default:
		s.kind = Register
		s.doc, s.request, err = jobspec.ParseRegister(body)
	}
	if err != nil {
		return nil, err
	}
	if route.JobID != "" && *s.request.Job.ID != route.JobID {
		return nil, errors.New("the ID of the job does not match the one in the address")
	}
	if s.kind == Validate {
		s.scope = validateScope(s.request.Job, queryScope(r), s.request.WriteRequest, g.config.Region)
		s.token = resolveToken(r.Header, "")
	} else {
		s.scope = registerScope(s.request.Job, queryScope(r), s.request.WriteRequest, g.config.Region)
		s.token = resolveToken(r.Header, s.request.SecretID)
	}
	if err := checkToken(s.token); err != nil {
		return nil, err
	}
	if s.doc.Has("SecretID") {
		s.doc.SetText("SecretID", "")
	}
	if err := jobspec.CanonicalizeOwned(s.request.Job); err != nil {
		return nil, err
	}
	s.job = s.request.Job
	s.job.Namespace, s.job.Region = &s.scope.namespace, &s.scope.region
	return s, nil
}

// resolve finds the stored job and the effective one, and says whether GPUs
// are involved in either, asked for or not.
func (g *Gate) resolve(ctx context.Context, s *submission) (wantsGPU bool, err error) {
	preserve := jobspec.Preserve{Counts: s.request.PreserveCounts, Resources: s.request.PreserveResources}
	submitted := jobspec.ExtractCanonical(s.job, s.defaults())
	if prepared, ok := g.config.Admitter.(Preparer); ok && s.kind.Commits() && len(submitted.Groups) > 0 && s.scope.region == g.config.Region {
		s.since = time.Now()
		prepared.Prepare()
	}
	s.stored, err = g.lookUp(ctx, s)
	if err != nil {
		if len(submitted.Groups) == 0 && preserve == (jobspec.Preserve{}) {
			// No GPU can come of this request, whatever is stored; Nomad itself
			// says what is wrong.
			return false, nil
		}
		return false, err
	}
	s.ask = submitted
	if s.stored != nil && preserve != (jobspec.Preserve{}) {
		s.job = jobspec.Effective(s.job, s.stored, preserve)
		if s.ask, err = jobspec.Extract(s.job, s.defaults()); err != nil {
			return false, refuseBody(err)
		}
	}
	return len(s.ask.Groups) > 0 || len(s.ask.Undeclared) > 0 || jobGPUs(s.stored) > 0, nil
}

func (s *submission) defaults() jobspec.Defaults {
	return jobspec.Defaults{Region: s.scope.region, Namespace: s.scope.namespace}
}

// errTooLate means that what was decided about is not covered any more.
var errTooLate = errors.New("this agent was held up for too long after it had decided")

// carryOut does what the verdict says.
func (g *Gate) carryOut(w http.ResponseWriter, r *http.Request, s *submission, v Verdict) error {
	if v.Denied && s.kind.Commits() {
		return refuse(http.StatusForbidden, v.Reason, "%s", v.Message)
	}
	settle := g.settler(r.Context(), s, v)
	// Until the request is sent nothing can have happened; settling twice has
	// no effect.
	outcome := Outcome{Known: true}
	defer func() { settle(outcome) }()
	if !v.Denied {
		if err := g.patch(r.Context(), s, v); err != nil {
			return err
		}
	}
	if err := r.Context().Err(); err != nil {
		return err
	}
	bound := false
	if v.AsStored {
		var err error
		if bound, err = s.bindStored(); err != nil {
			return err
		}
	}
	until := time.Now().Add(g.config.ForwardTimeout)
	if !v.Until.IsZero() && v.Until.Before(until) {
		until = v.Until
	}
	if !time.Now().Before(until) { // this process was stopped in between
		return refuseUndecided(s.ask.JobID, errTooLate)
	}
	ctx, cancel := context.WithDeadline(context.WithoutCancel(r.Context()), until)
	defer cancel()
	if s.kind.Commits() {
		outcome = Outcome{}
	}
	theirs, err := g.sendTraced(r.WithContext(ctx), s)
	if s.kind.Commits() {
		if s.kind == Register {
			g.known.forget(s.key())
		}
		outcome = g.judged(ctx, s, theirs, err)
	}
	if err == nil && s.recalled && !s.stillStored(theirs) {
		return errChanged
	}
	if !outcome.Accepted {
		settle(outcome) // whoever tries again has what it gives back
	}
	if err == nil {
		err = s.notLent(theirs)
	}
	if err == nil && bound && theirs.conflicts() {
		err = errChanged
	}
	if err != nil {
		return err
	}
	g.annotate(theirs, s, v)
	theirs.write(w)
	if s.kind.Commits() {
		// What Nomad has accepted is held already: the client need not wait until that is
		// written once more. On this connection the next request does.
		_ = http.NewResponseController(w).Flush()
	}
	return nil
}

// sendTraced is send with a span, of which Nomad is told.
func (g *Gate) sendTraced(r *http.Request, s *submission) (*answer, error) {
	if !trace.SpanFromContext(r.Context()).IsRecording() {
		return g.send(r, s)
	}
	ctx, span := StartSpan(r.Context(), "nomad", trace.SpanKindClient, attribute.String("http.request.method", r.Method))
	theirs, err := g.send(r.WithContext(ctx), s)
	if err == nil {
		span.SetAttributes(attribute.Int("http.response.status_code", theirs.status))
	}
	endSpan(span, err)
	return theirs, err
}

// send forwards the request and reads the answer. Who may bring back an old version
// of a job need not be allowed to register any other: then it comes back as it was.
func (g *Gate) send(r *http.Request, s *submission) (*answer, error) {
	if !s.kind.Commits() && g.relay != nil {
		return g.relay.exchange(g.outgoing(r, s), s.body(), g.config.ResponseMax)
	}
	theirs, err := g.nomad.do(g.outgoing(r, s))
	if err == nil && s.materialised && s.lent == "" && theirs.status == http.StatusForbidden {
		s.materialised = false
		return g.nomad.do(g.outgoing(r, s))
	}
	return theirs, err
}

// judged is the outcome of a request that was sent.
func (g *Gate) judged(ctx context.Context, s *submission, a *answer, err error) Outcome {
	out := judge(s.kind, s.stored, a, err)
	if !s.kind.Launches() || !out.Accepted {
		return out
	}
	child, err := g.child(ctx, s, a)
	if err != nil || child == nil || child.ID == nil {
		g.logger.Warn("launched job not found yet", "namespace", s.ask.Namespace, "job_id", s.ask.JobID, "error", err)
		return Outcome{}
	}
	return Outcome{Known: true, Accepted: true, JobID: *child.ID, JobModifyIndex: jobModifyIndex(child), Job: child}
}

// patch writes the placement into the document that is forwarded.
func (g *Gate) patch(ctx context.Context, s *submission, v Verdict) error {
	if s.kind == Revert {
		return g.materialise(ctx, s, v.Patch)
	}
	if s.kind == Scale || s.kind.Launches() {
		return nil // Nomad makes the job itself
	}
	patch := v.Patch
	if s.request.PreserveResources {
		// The devices are those of the stored job, and so are their pins: Nomad
		// would throw away what is written here, and the block may not exist.
		patch.Groups = slices.Clone(patch.Groups)
		for i := range patch.Groups {
			patch.Groups[i].Devices = nil
		}
	}
	if err := jobspec.Apply(s.doc, patch); err != nil {
		g.logger.Error("could not write placement into job", "job_id", s.ask.JobID, "error", err)
		return refuseUndecided(s.ask.JobID, err)
	}
	return nil
}

// bind makes Nomad refuse a registration that keeps stored values if the job
// has changed since it was judged, for then it would become something else.
func (s *submission) bind() error {
	if s.kind != Register || (!s.request.PreserveCounts && !s.request.PreserveResources) {
		return nil
	}
	index := jobModifyIndex(s.stored)
	if s.request.EnforceIndex && s.request.JobModifyIndex != index {
		return conflictingIndex(s.request.JobModifyIndex, index)
	}
	s.enforce(index)
	return nil
}

// bindStored makes Nomad refuse a registration that was decided about as the stored
// job, and holds no more than that, if the job has changed or gone: everything would
// start again. It reports whether the user does not ask for that too.
func (s *submission) bindStored() (bound bool, err error) {
	index := jobModifyIndex(s.stored)
	switch {
	case s.kind != Register:
		return false, nil
	case !s.request.EnforceIndex:
		s.enforce(index)
		return true, nil
	case s.request.JobModifyIndex != index:
		return false, conflictingIndex(s.request.JobModifyIndex, index)
	}
	return false, nil
}

func (s *submission) enforce(index uint64) {
	s.doc.SetBool("EnforceIndex", true)
	s.doc.SetUint("JobModifyIndex", index)
}

// errChanged means that the job is not any more what it was decided about as.
var errChanged = errors.New("the job has changed")

// settler returns a function that tells the Admitter the outcome, at most once
// and also when the client has gone.
func (g *Gate) settler(ctx context.Context, s *submission, v Verdict) func(Outcome) {
	done := v.Settle == nil || v.Denied
	return func(o Outcome) {
		if done {
			return
		}
		done = true
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.config.SettleTimeout)
		defer cancel()
		ctx, span := StartSpan(ctx, "confirm", trace.SpanKindInternal, attribute.Bool("governor.known", o.Known), attribute.Bool("governor.accepted", o.Accepted))
		defer span.End()
		v.Settle(ctx, o)
		g.logger.Debug("settled", "namespace", s.ask.Namespace, "job_id", s.ask.JobID, "known", o.Known,
			"accepted", o.Accepted, "job_modify_index", o.JobModifyIndex)
	}
}

// outgoing is the request with the judged document, for an answer that the
// gate can read.
func (g *Gate) outgoing(r *http.Request, s *submission) *http.Request {
	out := withBody(s.asked(r), s.body(), s.bearer())
	out.RequestURI = ""
	out.Host = r.Host
	out.URL.Scheme, out.URL.Host = g.config.Nomad.Scheme, g.config.Nomad.Host
	for _, name := range hopByHop {
		out.Header.Del(name)
	}
	for name := range out.Header {
		if name == "Forwarded" || strings.HasPrefix(name, "X-Forwarded-") {
			out.Header.Del(name)
		}
	}
	out.Header.Del("Accept-Encoding")
	out.Header.Del("Expect")
	handOn(r.Context(), out.Header)
	return out
}

// annotate writes the Admitter's words into Nomad's own answer, where the
// stock CLI and the UI show them.
func (g *Gate) annotate(a *answer, s *submission, v Verdict) {
	warnings := v.Warnings
	if v.Denied && s.kind == Plan {
		warnings = append([]string{v.Message}, warnings...)
	}
	if a.status != http.StatusOK || (len(warnings) == 0 && !v.Denied) {
		return
	}
	if !v.Denied || s.kind != Validate { // the warnings alone: no need to read the rest
		body, ok := jobspec.SpliceAt(a.body, a.locateWarnings(), func(theirs string) string { return mergeWarnings(theirs, warnings) })
		if ok {
			a.body = body
			return
		}
	}
	doc, err := jobspec.Parse(a.body, jobspec.ResponseLimits)
	if err != nil || !doc.IsObject() {
		g.logger.Warn("could not add warnings to nomad's answer", "job_id", s.ask.JobID, "error", err)
		return
	}
	doc.SetText("Warnings", mergeWarnings(doc.Text("Warnings"), warnings))
	if v.Denied && s.kind == Validate {
		if err := doc.AppendText("ValidationErrors", v.Message); err != nil {
			g.logger.Warn("could not add the refusal to nomad's answer", "job_id", s.ask.JobID, "error", err)
		}
		doc.SetText("Error", strings.TrimSpace(doc.Text("Error")+"\n\n"+v.Message))
	}
	a.body = doc.Encode()
}
