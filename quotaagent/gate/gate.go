package gate

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nomad-governor/governor/quotaagent/ledger"
	"go.opentelemetry.io/otel/trace"
)

// Config is what a Gate needs. Zero limits mean the defaults.
type Config struct {
	// Nomad is the address of the agent behind the gate, http or https.
	Nomad *url.URL
	// Transport reaches Nomad; see NewTransport.
	Transport http.RoundTripper
	// Region is the region of the agent behind the gate; only GPU work for it
	// is admitted.
	Region   string
	Admitter Admitter
	// ReadToken reads stored jobs for users who may scale or dispatch a job without
	// being allowed to read it; "" for none: such requests are then refused.
	ReadToken string
	// Delegation has the gate start work with a token of its own; nil where it forwards
	// the users' tokens.
	Delegation *Delegation
	// UserTokens are forms of the names of tokens that a login gives, as in "okta-*":
	// what stands for the * is the user. Empty for none.
	UserTokens []string
	// AllowUnknownWrites lets writes pass that the gate does not know. Set it
	// only until Governor knows the endpoints of a new Nomad version.
	AllowUnknownWrites bool
	// EditPage adds something to the pages of Nomad's UI; nil to pass them as they are.
	EditPage EditPage
	// JobLink is the URL of this gate for people, below which Governor's pages are; GPU
	// jobs get a link to theirs in their ui block. "" for none.
	JobLink string
	// Tracer makes the spans of governed requests; nil for none.
	Tracer trace.Tracer
	Logger hclog.Logger

	// BodyMax is the largest body on governed routes, in bytes (32 MiB).
	BodyMax int64
	// ResponseMax is the largest answer of Nomad that is read (64 MiB).
	ResponseMax int64
	// BodyTimeout is how long a client may take for a governed body (2 min).
	BodyTimeout time.Duration
	// LookupTimeout bounds one question to Nomad (30 s).
	LookupTimeout time.Duration
	// ForwardTimeout bounds one governed request (90 s). It goes on when the
	// client leaves, so that its outcome is known.
	ForwardTimeout time.Duration
	// SettleTimeout bounds one call of Settle (15 s).
	SettleTimeout time.Duration
	// IdentityTTL is how long an identity is believed at most (20 s).
	IdentityTTL time.Duration
}

func (c Config) withDefaults() Config {
	setDefault(&c.BodyMax, 32<<20)
	setDefault(&c.ResponseMax, 64<<20)
	setDefault(&c.BodyTimeout, 2*time.Minute)
	setDefault(&c.LookupTimeout, 30*time.Second)
	setDefault(&c.ForwardTimeout, ledger.SendWithin)
	setDefault(&c.SettleTimeout, 15*time.Second)
	setDefault(&c.IdentityTTL, 20*time.Second)
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	return c
}

func setDefault[T comparable](field *T, otherwise T) {
	if *field == *new(T) {
		*field = otherwise
	}
}

func (c Config) validate() error {
	switch {
	case c.Nomad == nil || c.Nomad.Host == "" || (c.Nomad.Scheme != "http" && c.Nomad.Scheme != "https"):
		return errors.New("the address of Nomad must be a URL such as http://127.0.0.1:4646")
	case c.Transport == nil:
		return errors.New("a transport to Nomad is needed")
	case c.Admitter == nil:
		return errors.New("an admitter is needed")
	case c.Region == "":
		return errors.New("the region of the Nomad agent behind the gate is needed")
	case c.Delegation != nil && (c.Delegation.Token == "" || c.Delegation.Capability == ""):
		return errors.New("delegated credentials need a token, and the capability that lets users start work")
	}
	return nil
}

// Gate is the proxy. It is safe for concurrent use and has no goroutines of
// its own.
type Gate struct {
	config     Config
	logger     hclog.Logger
	nomad      *client
	identities *identities
	proxy      *httputil.ReverseProxy
	relay      *relay
	known      *knownJobs
}

// New returns a gate, or an error when the configuration cannot work.
func New(config Config) (*Gate, error) {
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("configure gate: %w", err)
	}
	config = config.withDefaults()
	g := &Gate{config: config, logger: config.Logger.Named("gate"), relay: newRelay(config), known: newKnownJobs(time.Now)}
	g.nomad = &client{
		address: config.Nomad, transport: config.Transport, relay: g.relay, bodyMax: config.ResponseMax, timeout: config.LookupTimeout, reader: config.ReadToken,
	}
	g.identities = newIdentities(g.nomad, config.IdentityTTL, time.Now)
	g.identities.userTokens = config.UserTokens
	g.proxy = &httputil.ReverseProxy{
		Rewrite:   g.rewrite,
		Transport: config.Transport,
		// Without an interval every byte of an answer without a length, which all of
		// Nomad's streams are, is sent at once, and others when they are complete.
		BufferPool:     copies,
		ModifyResponse: keepTunnel,
		ErrorHandler:   g.proxyError,
		ErrorLog:       log.New(proxyLog{g.logger}, "", 0),
	}
	return g, nil
}

// buffers are what answers are copied with. A new one for each is most of the garbage
// of a busy gate.
type buffers struct{ pool sync.Pool }

// copies are what all bodies are copied with.
var copies = &buffers{sync.Pool{New: func() any { return new([32 << 10]byte) }}}

// Get implements httputil.BufferPool.
func (b *buffers) Get() []byte { return b.pool.Get().(*[32 << 10]byte)[:] }

// Put implements httputil.BufferPool.
func (b *buffers) Put(buffer []byte) { b.pool.Put((*[32 << 10]byte)(buffer)) }

// rewrite points a request at Nomad. The path stays as the client encoded it,
// and so does Host, which Nomad compares with a websocket's Origin. Rewrite
// has removed X-Forwarded-*, which nobody has vouched for.
func (g *Gate) rewrite(p *httputil.ProxyRequest) {
	p.Out.URL.Scheme = g.config.Nomad.Scheme
	p.Out.URL.Host = g.config.Nomad.Host
	p.Out.URL.RawQuery = p.In.URL.RawQuery
	p.Out.Host = p.In.Host
}

func (g *Gate) proxyError(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		w.WriteHeader(http.StatusBadGateway) // the client has gone: nothing to report
		return
	}
	g.logger.Warn("nomad did not answer", "method", r.Method, "path", r.URL.Path, "error", err)
	refuseUnreachable().write(w)
}

// proxyLog takes the few lines that httputil logs by itself.
type proxyLog struct{ logger hclog.Logger }

func (l proxyLog) Write(line []byte) (int, error) {
	l.logger.Debug("proxy", "detail", string(bytes.TrimSpace(line)))
	return len(line), nil
}

// ServeHTTP classifies the request and treats it accordingly.
func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer g.recover(w, r)
	if r.Method == http.MethodConnect {
		refuse(http.StatusMethodNotAllowed, ReasonUnknownRoute, "Governor is not a forward proxy.").write(w)
		return
	}
	if r.URL.Opaque != "" {
		// "x:http://nomad/v1/jobs" has no path here, but Nomad would read one.
		refuse(http.StatusBadRequest, ReasonBadRequest,
			"The target of this request is not a path. Nothing was changed. Send a path such as /v1/jobs.").write(w)
		return
	}
	route := Classify(r.Method, r.URL.Path)
	if g.logger.IsTrace() {
		g.logger.Trace("request", "method", r.Method, "path", r.URL.Path, "route", route.Kind.String())
	}
	switch {
	case route.Kind.governed():
		g.answer(w, r, g.traced(w, r, route, g.governed))
	case route.Kind.ofStored():
		g.answer(w, r, g.traced(w, r, route, g.stored))
	case route.Kind == RouteStable:
		g.answer(w, r, g.stable(w, r, route))
	case route.Kind == RouteUnknownWrite && !g.config.AllowUnknownWrites:
		g.answer(w, r, refuseUnknown(r.Method, r.URL.Path))
	case g.config.EditPage != nil && asksForPage(r):
		g.page(w, r)
	case g.relay.takes(r):
		if err := g.relay.serve(w, r); err != nil {
			g.proxyError(w, r, err)
		}
	default:
		g.proxy.ServeHTTP(tellOnce(w, r))
	}
}

// answer writes what a handler could not: a refusal, Nomad's own answer to a
// question of the gate, or that Nomad did not answer.
func (g *Gate) answer(w http.ResponseWriter, r *http.Request, err error) {
	if err == nil {
		return
	}
	var refused *refusal
	var theirs *answer
	switch {
	case errors.As(err, &refused):
		g.logger.Debug("refused", "method", r.Method, "path", r.URL.Path, "reason", refused.reason)
		if refused.status == http.StatusForbidden && fromUI(r) {
			told := *refused
			told.status = http.StatusConflict
			refused = &told
		}
		refused.write(w)
	case errors.As(err, &theirs):
		theirs.write(w)
	default:
		// Also when the client has gone: without a word net/http would say 200.
		g.proxyError(w, r, err)
	}
}

func (g *Gate) recover(w http.ResponseWriter, r *http.Request) {
	cause := recover()
	if cause == nil {
		return
	}
	if err, ok := cause.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(cause) // net/http's own way to cut a connection
	}
	g.logger.Error("request panicked", "method", r.Method, "path", r.URL.Path, "panic", fmt.Sprint(cause),
		"stack", string(debug.Stack()))
	refuse(http.StatusInternalServerError, ReasonInternal,
		"Governor failed on this request because of a bug; its log has the details.").write(w)
}

// readBody reads the body of a request that Nomad reads as JSON.
func (g *Gate) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if e := r.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return nil, refuse(http.StatusUnsupportedMediaType, ReasonBodyEncoding,
			"The body of this request has Content-Encoding %q, which Nomad does not read. Send the job uncompressed.", e)
	}
	body, err := g.readRaw(w, r)
	if err == nil && len(body) == 0 {
		err = refuse(http.StatusBadRequest, ReasonBadRequest, "The body of this request is empty. Nothing was changed.")
	}
	return body, err
}

// readRaw reads a body, which may be empty, to its end.
func (g *Gate) readRaw(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	// Other routes may take as long as they like; here a slow body would hold
	// memory. A recorder in a test has no deadline to set.
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(g.config.BodyTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, g.config.BodyMax))
	if err == nil {
		_ = control.SetReadDeadline(time.Time{})
	} else {
		// net/http would read on to the end of the body, as long as the client
		// cares to take: keep the deadline, and the connection for nothing else.
		w.Header().Set("Connection", "close")
	}
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, refuse(http.StatusRequestEntityTooLarge, ReasonBodyTooLarge,
			"The body of this request is larger than %s bytes, the most that Governor reads of a job.\n"+
				"Nothing was changed. Fetch large data with an artifact or a template source instead of writing it into the job.",
			strconv.FormatInt(g.config.BodyMax, 10))
	case err != nil:
		return nil, refuse(http.StatusBadRequest, ReasonBadRequest,
			"Governor could not read the body of this request to its end. Nothing was changed.")
	}
	return body, nil
}

// pass lets the proxy forward the request with the body that was judged. The
// token goes in the header, which Nomad prefers to every other place.
func (g *Gate) pass(w http.ResponseWriter, r *http.Request, body []byte, token string) {
	g.proxy.ServeHTTP(w, withBody(r, body, token))
}

func withBody(r *http.Request, body []byte, token string) *http.Request {
	out := r.Clone(r.Context())
	out.Body = io.NopCloser(bytes.NewReader(body))
	out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	out.ContentLength = int64(len(body))
	out.TransferEncoding = nil
	out.Header.Set("Content-Length", strconv.Itoa(len(body)))
	out.Header.Del("Content-Encoding")
	out.Header.Del("Expect") // the client has been told to go on: once is enough
	// http.Transport sends a request with one of these twice where the answer to the first
	// is lost. Nomad does not know them: it would do it twice.
	out.Header.Del("Idempotency-Key")
	out.Header.Del("X-Idempotency-Key")
	out.Header.Del("Authorization")
	out.Header.Del(tokenHeader)
	if token != "" {
		out.Header.Set(tokenHeader, token)
	}
	return out
}
