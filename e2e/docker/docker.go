package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Image is the name under which Import makes the image. Nomad pulls an image
// that has no tag or the tag "latest", whatever the daemon has already.
const Image = "governor-task:1"

// searched is where Debian, Ubuntu and Docker's own packages put programs. PATH
// is not asked: what it calls docker may be anything.
const searched = "/usr/bin:/usr/sbin:/usr/local/bin:/usr/local/sbin:/bin:/sbin"

// Daemon is one Docker daemon, described: who runs its Command has it.
type Daemon struct {
	dir     string
	program string
	client  *http.Client
}

// New describes the daemon of a directory and writes its configuration there.
// cgroup is the name of the parent of all its control groups.
func New(dir, cgroup string) (*Daemon, error) {
	program, err := find("dockerd")
	if err != nil {
		return nil, err
	}
	runc, err := find("runc")
	if err != nil {
		return nil, err
	}
	d := &Daemon{dir: dir, program: program}
	d.client = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, // no connection outlives its answer
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", d.Socket())
		},
	}}
	config, err := json.MarshalIndent(map[string]any{
		"data-root": filepath.Join(dir, "data"),
		"exec-root": filepath.Join(dir, "exec"),
		"pidfile":   filepath.Join(dir, "pid"),
		"hosts":     []string{d.Endpoint()},
		"runtimes":  map[string]any{"nvidia": map[string]any{"path": runc}},
		// Nothing of the machine's network is touched.
		"bridge": "none", "iptables": false, "ip6tables": false, "ip-forward": false, "ip-masq": false,
		"cgroup-parent": "/" + cgroup,
		"exec-opts":     []string{"native.cgroupdriver=cgroupfs"},
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the configuration of Docker: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of Docker: %w", err)
	}
	if err := os.WriteFile(d.config(), append(config, '\n'), 0o644); err != nil {
		return nil, fmt.Errorf("write the configuration of Docker: %w", err)
	}
	return d, nil
}

func find(name string) (string, error) {
	for _, dir := range filepath.SplitList(searched) {
		candidate := filepath.Join(dir, name)
		if info, err := os.Stat(candidate); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return candidate, nil
		}
	}
	return "", fmt.Errorf("find %s in %s: it is not there: run `make docker`", name, searched)
}

func (d *Daemon) config() string { return filepath.Join(d.dir, "daemon.json") }

// Command is the command that runs the daemon.
func (d *Daemon) Command() []string { return []string{d.program, "--config-file=" + d.config()} }

// Env is what the daemon needs in its environment.
func (d *Daemon) Env() []string { return []string{"PATH=" + searched} }

// Socket is the Unix socket on which the daemon answers.
func (d *Daemon) Socket() string { return filepath.Join(d.dir, "docker.sock") }

// Endpoint is the socket as a URL.
func (d *Daemon) Endpoint() string { return "unix://" + d.Socket() }

// Ping is satisfied when the daemon answers.
func (d *Daemon) Ping(ctx context.Context) error {
	_, err := d.do(ctx, http.MethodGet, "/_ping", nil, nil)
	return err
}

// Import makes Image of files: each path in the image by its source on this
// machine. Every process of the image has env.
func (d *Daemon) Import(ctx context.Context, files map[string]string, env ...string) error {
	archive, err := pack(files)
	if err != nil {
		return fmt.Errorf("import an image: %w", err)
	}
	name, tag, _ := strings.Cut(Image, ":")
	query := url.Values{"fromSrc": {"-"}, "repo": {name}, "tag": {tag}}
	for _, pair := range env {
		query.Add("changes", "ENV "+pair)
	}
	progress, err := d.do(ctx, http.MethodPost, "/images/create", query, archive)
	if err != nil {
		return fmt.Errorf("import an image: %w", err)
	}
	// The daemon answers 200 before it begins; an error is one of the lines.
	lines := json.NewDecoder(bytes.NewReader(progress))
	for {
		var line struct {
			Error string `json:"error"`
		}
		if err := lines.Decode(&line); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("import an image: %w", err)
		}
		if line.Error != "" {
			return fmt.Errorf("import an image: Docker says: %s", line.Error)
		}
	}
}

// pack makes an archive in a fixed order. Directories are made on the way.
func pack(files map[string]string) (io.Reader, error) {
	var buffer bytes.Buffer
	archive := tar.NewWriter(&buffer)
	made := map[string]bool{"/": true}
	var directory func(dir string) error
	directory = func(dir string) error {
		if made[dir] {
			return nil
		}
		if err := directory(path.Dir(dir)); err != nil {
			return err
		}
		made[dir] = true
		mode := int64(0o755)
		if dir == "/tmp" {
			mode = 0o1777
		}
		return archive.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimPrefix(dir, "/") + "/", Mode: mode})
	}
	if err := directory("/tmp"); err != nil {
		return nil, err
	}
	for _, target := range slices.Sorted(maps.Keys(files)) {
		content, err := os.ReadFile(files[target])
		if err != nil {
			return nil, err
		}
		if err := directory(path.Dir(target)); err != nil {
			return nil, err
		}
		header := &tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(target, "/"), Mode: 0o755, Size: int64(len(content))}
		if err := archive.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := archive.Write(content); err != nil {
			return nil, err
		}
	}
	return &buffer, archive.Close()
}

// Container is what Docker was told about a container.
type Container struct {
	ID string `json:"Id"`
	// Name begins with a slash; Nomad's are "/<task>-<allocation id>".
	Name   string
	Config struct {
		Env []string
	}
	HostConfig struct {
		Runtime     string
		NetworkMode string
		Devices     []struct{ PathOnHost, PathInContainer, CgroupPermissions string }
		Mounts      []struct {
			Source, Target string
			ReadOnly       bool
		}
	}
	State struct {
		Running bool
		Pid     int
	}
}

// Inspect describes the container of that name or id.
func (d *Daemon) Inspect(ctx context.Context, name string) (Container, error) {
	body, err := d.do(ctx, http.MethodGet, "/containers/"+url.PathEscape(name)+"/json", nil, nil)
	if err != nil {
		return Container{}, fmt.Errorf("inspect container %s: %w", name, err)
	}
	var c Container
	if err := json.Unmarshal(body, &c); err != nil {
		return Container{}, fmt.Errorf("inspect container %s: %w", name, err)
	}
	return c, nil
}

// RemoveContainers ends and removes all containers, without grace.
func (d *Daemon) RemoveContainers(ctx context.Context) error {
	body, err := d.do(ctx, http.MethodGet, "/containers/json", url.Values{"all": {"true"}}, nil)
	if err != nil {
		return fmt.Errorf("list the containers: %w", err)
	}
	var all []struct {
		ID string `json:"Id"`
	}
	if err := json.Unmarshal(body, &all); err != nil {
		return fmt.Errorf("list the containers: %w", err)
	}
	var errs []error
	for _, c := range all {
		if _, err := d.do(ctx, http.MethodDelete, "/containers/"+c.ID, url.Values{"force": {"true"}}, nil); err != nil {
			errs = append(errs, fmt.Errorf("remove container %s: %w", c.ID[:12], err))
		}
	}
	return errors.Join(errs...)
}

// answerBytesMost bounds what is read of an answer.
const answerBytesMost = 4 << 20

// do makes one request and returns the body of an answer that is no error.
func (d *Daemon) do(ctx context.Context, method, path string, query url.Values, body io.Reader) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://docker"+path+"?"+query.Encode(), body)
	if err != nil {
		return nil, err
	}
	response, err := d.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, answerBytesMost))
	if err != nil {
		return nil, err
	}
	if response.StatusCode >= http.StatusBadRequest {
		return nil, fmt.Errorf("Docker answers %d: %.300s", response.StatusCode, bytes.TrimSpace(text))
	}
	return text, nil
}
