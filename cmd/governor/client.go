package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/nomad-governor/governor/quotaagent/api"
	"github.com/nomad-governor/governor/quotaagent/gate"
)

// The environment variables of the CLI.
const (
	envAddress = "GOVERNOR_ADDR"
	envToken   = "NOMAD_TOKEN"
)

const defaultAddress = "http://127.0.0.1:4640"

// client talks to an agent.
type client struct {
	env            environment
	address, token string
}

// clientFlags adds the flags that every remote command has.
func clientFlags(env environment, fs *flag.FlagSet) *client {
	c := &client{env: env}
	address := env.getenv(envAddress)
	if address == "" {
		address = defaultAddress
	}
	fs.StringVar(&c.address, "address", address, "")
	fs.StringVar(&c.token, "token", env.getenv(envToken), "")
	return c
}

const clientHelp = `
  -address=<url>   Address of a governor agent. Default: GOVERNOR_ADDR, else
                   http://127.0.0.1:4640.
  -token=<secret>  Nomad token to act with. Default: NOMAD_TOKEN.

  Over HTTPS the files in NOMAD_CACERT, NOMAD_CLIENT_CERT and NOMAD_CLIENT_KEY
  count, and NOMAD_TLS_SERVER_NAME, as they do for nomad.`

// flags returns a flag set that leaves reporting to parse.
func flags(name string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	return fs
}

// namespaceFlag is the namespace of a job.
func namespaceFlag(env environment, fs *flag.FlagSet) *string {
	return fs.String("namespace", cmp.Or(env.getenv("NOMAD_NAMESPACE"), "default"), "")
}

// listing is what a command does that lists those that are open of what the agent
// has at path, and with -all the others too.
func listing[T any](env environment, name, path string, open func(T) bool, write func(w io.Writer, list []T, all bool)) func(args []string) int {
	return func(args []string) int {
		fs := flags(name)
		c := clientFlags(env, fs)
		all, asJSON := fs.Bool("all", false, ""), fs.Bool("json", false, "")
		if !parse(env, fs, args, 0, 0) {
			return 1
		}
		var list []T
		if err := c.call("GET", path, nil, &list); err != nil {
			return env.fail(err)
		}
		shown := []T{}
		for _, one := range list {
			if *all || open(one) {
				shown = append(shown, one)
			}
		}
		if *asJSON {
			printJSON(env.stdout, shown)
			return 0
		}
		write(env.stdout, shown, *all)
		return 0
	}
}

// parse parses flags and checks the number of arguments; on a mistake it prints
// what is wrong and how to get help.
func parse(env environment, fs *flag.FlagSet, args []string, least, most int) bool {
	err := fs.Parse(args)
	switch n := fs.NArg(); {
	case err != nil:
		err = explainFlag(fs, err)
	case n < least:
		err = errors.New("an argument is missing")
	case n > most && strings.HasPrefix(fs.Arg(most), "-"):
		err = fmt.Errorf("%s is too late: options come before arguments", fs.Arg(most))
	case n > most:
		err = fmt.Errorf("%q is one argument too many", fs.Arg(most))
	}
	if err != nil {
		fmt.Fprintf(env.stderr, "Error: %v\nTry: governor %s -help\n", err, fs.Name())
		return false
	}
	return true
}

// explainFlag says which options there are when one was not found.
func explainFlag(fs *flag.FlagSet, err error) error {
	name, unknown := strings.CutPrefix(err.Error(), "flag provided but not defined: ")
	if !unknown {
		return err
	}
	var known []string
	fs.VisitAll(func(f *flag.Flag) { known = append(known, "-"+f.Name) })
	if len(known) == 0 {
		return fmt.Errorf("there is no option %s; this command has none", name)
	}
	return fmt.Errorf("there is no option %s; there are: %s", name, strings.Join(known, ", "))
}

// answerMax bounds an answer, in bytes.
const answerMax = 256 << 20

// call makes one request and decodes the JSON answer into out; a *[]byte takes it as it
// is.
func (c *client) call(method, path string, body, out any) error {
	var answer []byte
	err := c.send(method, path, body, 30*time.Second, func(body io.Reader) (err error) {
		answer, err = io.ReadAll(io.LimitReader(body, answerMax+1))
		if err == nil && len(answer) > answerMax {
			err = fmt.Errorf("it has more than %d bytes", answerMax)
		}
		return err
	})
	if err != nil || out == nil {
		return err
	}
	if text, asItIs := out.(*[]byte); asItIs {
		*text = answer
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("%s is not a governor agent: %w", c.address, err)
	}
	return nil
}

// quick makes a request that is given up soon.
func (c *client) quick(path string, out any, within time.Duration) error {
	return c.send("GET", path, nil, within, func(body io.Reader) error {
		return json.NewDecoder(io.LimitReader(body, answerMax)).Decode(out)
	})
}

// download writes an answer to out as it comes, however long that takes.
func (c *client) download(path string, out io.Writer) error {
	return c.send("GET", path, nil, 0, func(body io.Reader) error {
		_, err := io.Copy(out, body)
		return err
	})
}

// send makes one request and gives the body of a good answer to take. A timeout of 0 is
// none.
func (c *client) send(method, path string, body any, timeout time.Duration, take func(body io.Reader) error) error {
	var reader io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		reader = bytes.NewReader(encoded)
	}
	base, err := url.Parse(c.address)
	if err != nil || (base.Scheme != "http" && base.Scheme != "https") || base.Host == "" {
		return fmt.Errorf("the address %q is not a URL such as %s (set -address or %s)", c.address, defaultAddress, envAddress)
	}
	req, err := http.NewRequestWithContext(c.env.ctx, method, strings.TrimSuffix(c.address, "/")+path, reader)
	if err != nil {
		return fmt.Errorf("address %q is not usable: %w", c.address, err)
	}
	if c.token != "" {
		req.Header.Set("X-Nomad-Token", c.token)
	}
	transport, err := gate.NewTransport(gate.TLS{CAFile: c.env.getenv("NOMAD_CACERT"), CertFile: c.env.getenv("NOMAD_CLIENT_CERT"),
		KeyFile: c.env.getenv("NOMAD_CLIENT_KEY"), ServerName: c.env.getenv("NOMAD_TLS_SERVER_NAME")})
	if err != nil {
		return err
	}
	defer transport.CloseIdleConnections()
	transport.Proxy, transport.DisableCompression = http.ProxyFromEnvironment, false
	resp, err := (&http.Client{Timeout: timeout, Transport: transport}).Do(req)
	if err != nil {
		var detail *url.Error
		if errors.As(err, &detail) {
			err = detail.Err // the rest repeats the address
		}
		return fmt.Errorf("no governor agent answers at %s: %w\nSet its address with -address or %s", c.address, err, envAddress)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		answer, err := io.ReadAll(io.LimitReader(resp.Body, answerMax))
		if err != nil {
			return fmt.Errorf("read the agent's answer: %w", err)
		}
		if text := strings.TrimSpace(string(answer)); text != "" && strings.HasPrefix(path, "/v1/") {
			return fmt.Errorf("Nomad answered %q: %s", resp.Status, text)
		}
		return c.refusal(resp.Status, answer)
	}
	if err := take(resp.Body); err != nil {
		return fmt.Errorf("read the agent's answer: %w", err)
	}
	return nil
}

// refusal is the error that an agent answered, or that it is none.
func (c *client) refusal(status string, answer []byte) error {
	var failure api.Failure
	if json.Unmarshal(answer, &failure) == nil && failure.Error != "" {
		return errors.New(failure.Error)
	}
	text := strings.TrimSpace(string(answer))
	if own := strings.TrimPrefix(text, "governor: "); own != text {
		return errors.New(own) // an agent that is stopping
	}
	return fmt.Errorf("%s answers %q: is that a governor agent?", c.address, status)
}

// escapePath escapes a path for a URL, but its slashes.
func escapePath(path string) string {
	parts := strings.Split(path, "/")
	for i, part := range parts {
		parts[i] = url.PathEscape(part)
	}
	return strings.Join(parts, "/")
}
