package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nomad-governor/governor/hcl/agentconfig"
)

// bundle is what was found out about an installation, to be sent to somebody who helps.
type bundle struct {
	// at is when it was made, address the agent that was asked, version that of the
	// program that asked.
	at               time.Time
	address, version string
	// secrets are texts that must not be in it.
	secrets []string
	files   map[string][]byte
	missing map[string]string
}

// bundleManifest says what is in a bundle and what is not.
type bundleManifest struct {
	Made    time.Time `json:"made"`
	Version string    `json:"version"`
	Address string    `json:"address"`
	// Files are sorted by name.
	Files []bundleFile `json:"files"`
	// Missing is what could not be had, sorted by name.
	Missing []bundleMissing `json:"missing"`
	// Note says what was taken out.
	Note string `json:"note"`
}

type bundleFile struct {
	Name   string `json:"name"`
	Bytes  int    `json:"bytes"`
	SHA256 string `json:"sha256"`
}

type bundleMissing struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// manifestName is the file that says what is in a bundle.
const manifestName = "manifest.json"

// urlPath is what follows the host in an address: the addresses of chat rooms and of
// other receivers of alerts are secrets in themselves. So are users and passwords.
var urlPath = regexp.MustCompile(`(https?://)([^\s"'/\\<>@]*@)?([^\s"'/\\<>@?#]+)([/?#][^\s"'\\<>]*)?`)

func newBundle(at time.Time, address, version string, secrets ...string) *bundle {
	secrets = slices.DeleteFunc(secrets, func(text string) bool { return text == "" })
	return &bundle{at: at.UTC(), address: address, version: version, secrets: secrets, files: map[string][]byte{}, missing: map[string]string{}}
}

// add puts a file in, without secrets; an error is why there is none.
func (b *bundle) add(name string, content []byte, err error) {
	if err != nil {
		b.missing[name] = string(b.clean([]byte(err.Error())))
		return
	}
	b.files[name] = b.clean(content)
}

// addProfile puts in what pprof wrote: the names of functions, and numbers.
func (b *bundle) addProfile(name string, content []byte, err error) {
	if err != nil {
		b.add(name, nil, err)
		return
	}
	b.files[name] = content
}

// clean takes out the secrets that are known, and from addresses all but the host.
func (b *bundle) clean(content []byte) []byte {
	for _, secret := range b.secrets {
		content = bytes.ReplaceAll(content, []byte(secret), []byte(agentconfig.Redacted))
	}
	return urlPath.ReplaceAllFunc(content, func(found []byte) []byte {
		parts := urlPath.FindSubmatch(found)
		out := slices.Concat(parts[1], parts[3])
		if len(parts[4]) > 0 && string(parts[4]) != "/" {
			out = append(out, "/"+agentconfig.Redacted...)
		}
		return out
	})
}

// manifest is that of the files so far.
func (b *bundle) manifest() bundleManifest {
	m := bundleManifest{Made: b.at, Version: b.version, Address: string(b.clean([]byte(b.address))), Files: []bundleFile{}, Missing: []bundleMissing{},
		Note: "Tokens and keys are not in it, and addresses have lost what follows the host. The names of jobs, budgets, machines and people are: look through it before you send it to anybody."}
	for _, name := range sortedNames(b.files) {
		sum := sha256.Sum256(b.files[name])
		m.Files = append(m.Files, bundleFile{name, len(b.files[name]), hex.EncodeToString(sum[:])})
	}
	for _, name := range sortedNames(b.missing) {
		m.Missing = append(m.Missing, bundleMissing{name, b.missing[name]})
	}
	return m
}

// sortedNames are the keys of a map in order.
func sortedNames[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// folder is the one folder of the archive.
func (b *bundle) folder() string { return "governor-debug-" + b.at.Format("20060102T150405Z") }

// write writes the archive: the manifest, then the files in the order of their names.
func (b *bundle) write(w io.Writer) error {
	manifest, err := json.MarshalIndent(b.manifest(), "", "  ")
	if err != nil {
		return fmt.Errorf("encode the manifest: %w", err)
	}
	zipped := gzip.NewWriter(w)
	archive := tar.NewWriter(zipped)
	put := func(name string, content []byte) error {
		header := &tar.Header{Name: b.folder() + "/" + name, Mode: 0o600, Size: int64(len(content)), ModTime: b.at.Truncate(time.Second)}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		_, err := archive.Write(content)
		return err
	}
	if err := put(manifestName, append(manifest, '\n')); err != nil {
		return err
	}
	for _, name := range sortedNames(b.files) {
		if err := put(name, b.files[name]); err != nil {
			return err
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return zipped.Close()
}

// unsafeInName is what has no place in the name of a file.
var unsafeInName = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// fileName is a name of an agent as the name of a folder.
func fileName(name string) string {
	name = strings.Trim(unsafeInName.ReplaceAllString(name, "_"), ".")
	if name == "" {
		return "agent"
	}
	return name
}
