package tidy

import (
	"go/ast"
	"path"
	"slices"
	"strconv"
	"strings"
)

// layer is a package's place in the dependency rule of docs/ARCHITECTURE.md:
// main -> shell -> adapter -> pure -> words, never back.
type layer int

const (
	unknown  layer = iota
	words          // internal/gpu, internal/quantity, internal/version: known by all
	pure           // decides; no input or output
	language       // hcl/: texts to values and diagnostics; no input or output
	adapter        // speaks to one outside thing; adapters do not know each other
	shell          // composes adapters and owns goroutines
	program        // main packages
	harness        // e2e, internal/tidy, device/fakenvml, *test: nothing of the product imports it
)

// layerOf classifies a package by its path. A package that it does not know is
// a finding: deciding where a new package belongs is the point of the rule.
func layerOf(dir string) layer {
	switch {
	case under(dir, "e2e"), under(dir, "internal/tidy"), under(dir, "device/fakenvml"), strings.HasSuffix(dir, "test"):
		return harness
	case under(dir, "internal/gpu"), under(dir, "internal/quantity"), under(dir, "internal/version"):
		return words
	case slices.Contains(purePackages(), dir):
		return pure
	case under(dir, "hcl"):
		return language
	case slices.Contains(adapterPackages(), dir):
		return adapter
	case slices.Contains(shellPackages(), dir):
		return shell
	case under(dir, "cmd"):
		return program
	}
	return unknown
}

func purePackages() []string {
	return []string{
		"device/inventory", "device/occupancy", "device/exporter/metrics",
		"scheduler/cluster", "scheduler/clustermap", "scheduler/sets", "scheduler/place", "scheduler/index", "scheduler/locality", "scheduler/fleet", "scheduler/rewrite", "scheduler/simulate", "scheduler/proposal",
		"quotaagent/budget", "quotaagent/ledger", "quotaagent/ledger/request", "quotaagent/admission",
		"quotaagent/metering", "quotaagent/jobspec", "quotaagent/queue", "quotaagent/enforce", "quotaagent/audit",
		"quotaagent/report", "quotaagent/report/showback", "quotaagent/report/focus", "quotaagent/forecast", "quotaagent/bypass", "quotaagent/acl", "quotaagent/burn", "quotaagent/notice", "quotaagent/web/draw",
	}
}

func adapterPackages() []string {
	return []string{
		"device/nvml", "device/nic", "device/inject", "device/plugin", "device/worker",
		"device/occupancy/watch", "device/exporter",
		"scheduler/nomadstate",
		"quotaagent/gate", "quotaagent/consulkv", "quotaagent/sqlite",
		"quotaagent/nomadevents", "quotaagent/nomadctl", "quotaagent/posture", "quotaagent/history", "quotaagent/auditfile",
		"quotaagent/api", "quotaagent/web", "quotaagent/mcp", "quotaagent/uipanel", "quotaagent/metrics", "quotaagent/webhook",
	}
}

func shellPackages() []string {
	return []string{"scheduler/service", "quotaagent/agent"}
}

// under reports whether dir is parent or below it.
func under(dir, parent string) bool {
	return dir == parent || strings.HasPrefix(dir, parent+"/")
}

// mayImport says which layers each layer may import. Tests may compose more:
// see testMayImport.
func mayImport(from, to layer) bool {
	switch from {
	case words:
		return to == words
	case pure:
		return to == pure || to == words
	case language:
		return to == language || to == pure || to == words
	case adapter:
		return to == language || to == pure || to == words
	case shell:
		return to == adapter || to == language || to == pure || to == words
	case program:
		return to != harness && to != program
	case harness:
		return to == harness || to == pure || to == words
	case unknown:
	}
	return false
}

// testMayImport lets a test start what it tests against: a fake of the
// harness, and for shells and programs anything below them.
func testMayImport(from, to layer) bool {
	return mayImport(from, to) || to == harness || (from == harness && to != unknown)
}

// components never import each other: they meet in Nomad, Consul and HTTP.
func components() []string { return []string{"device", "scheduler", "quotaagent"} }

func component(dir string) string {
	first, _, _ := strings.Cut(dir, "/")
	if slices.Contains(components(), first) {
		return first
	}
	return ""
}

// Layers is the dependency rule between this module's own packages.
func Layers(r *Repo) []Finding {
	var findings []Finding
	for _, p := range r.Packages {
		from := layerOf(p.Path)
		if from == unknown {
			findings = append(findings, Finding{File: p.Path, Text: "is in no layer of docs/ARCHITECTURE.md: decide whether it is pure, an adapter or a shell, and add it to internal/tidy/layers.go"})
			continue
		}
		for _, f := range p.Files {
			for _, spec := range f.Tree.Imports {
				if text := judge(p.Path, from, importPath(spec), f.Test); text != "" {
					findings = append(findings, r.at(spec.Pos(), "%s", text))
				}
			}
		}
	}
	return findings
}

// judge says what is wrong with one import of this module's own, or "".
func judge(dir string, from layer, imported string, test bool) string {
	to, own := strings.CutPrefix(imported, Module+"/")
	if !own || to == dir {
		return ""
	}
	a, b := component(dir), component(to)
	if a != "" && b != "" && a != b {
		return a + " must not import " + to + ": device, scheduler and quotaagent meet only in Nomad, Consul and HTTP"
	}
	allowed := mayImport(from, layerOf(to))
	if test {
		allowed = testMayImport(from, layerOf(to))
	}
	if allowed || (from == program && under(to, dir)) {
		return ""
	}
	return dir + " is " + from.String() + " and must not import " + to + ", which is " + layerOf(to).String() + " (main -> shell -> adapter -> pure -> internal/{gpu,quantity})"
}

// String names a layer as findings do.
func (l layer) String() string {
	switch l {
	case words:
		return "shared words"
	case pure:
		return "pure"
	case language:
		return "a language"
	case adapter:
		return "an adapter"
	case shell:
		return "a shell"
	case program:
		return "a program"
	case harness:
		return "the test harness"
	case unknown:
	}
	return "unknown"
}

// library says which of this module's packages may import a library.
type library struct {
	prefix string   // the import path, or what it begins with
	users  []string // packages, or folders of packages, that may import it
	why    string
}

func libraries() []library {
	return []library{
		{"github.com/NVIDIA/go-nvml", []string{"device/nvml", "device/fakenvml"}, "only device/nvml gates missing symbols and survives a hanging driver; the fake is tested against its ABI"},
		{"github.com/NVIDIA/go-gpuallocator", []string{"scheduler/sets/setstest"}, "it is the peer that tests measure placement against, and no part of the product"},
		{"github.com/hashicorp/consul/api", []string{"quotaagent/consulkv"}, "only quotaagent/consulkv speaks to Consul"},
		{"modernc.org/sqlite", []string{"quotaagent/sqlite", "quotaagent/history"}, "only quotaagent/sqlite and quotaagent/history open databases"},
		{"github.com/hashicorp/hcl/v2", []string{"hcl", "device/fakenvml", "quotaagent/agent", "cmd/governor"}, "only hcl/ decodes HCL, and only shells show its diagnostics"},
		{"github.com/zclconf/go-cty", []string{"hcl", "device/fakenvml"}, "only hcl/ decodes HCL"},
		{"github.com/hashicorp/nomad/plugins", []string{"device/plugin"}, "only device/plugin speaks Nomad's device protocol"},
		{nomadAPI, []string{
			"scheduler/nomadstate", "scheduler/rewrite", "scheduler/service",
			"quotaagent/jobspec", "quotaagent/gate", "quotaagent/nomadevents", "quotaagent/nomadctl", "quotaagent/posture",
			"quotaagent/agent", "quotaagent/api", "cmd", "e2e",
		}, "budgets, ledger and placement decide on our own types"},
		// Business Source Licence, and unstable between releases. Last, because
		// the prefixes above are exceptions from it.
		{"github.com/hashicorp/nomad", nil, "only nomad/api and nomad/plugins have a licence that lets us link them"},
	}
}

// Libraries checks who imports the libraries that only one part may know.
// Tests are held to it too: what a test links must be as free as the product.
func Libraries(r *Repo) []Finding {
	var findings []Finding
	for _, p := range r.Packages {
		for _, f := range p.Files {
			for _, spec := range f.Tree.Imports {
				for _, l := range libraries() {
					if !under(importPath(spec), l.prefix) {
						continue
					}
					if !slices.ContainsFunc(l.users, func(user string) bool { return under(p.Path, user) }) {
						findings = append(findings, r.at(spec.Pos(), "must not import %s: %s", importPath(spec), l.why))
					}
					break
				}
			}
		}
	}
	return findings
}

func importPath(spec *ast.ImportSpec) string {
	unquoted, err := strconv.Unquote(spec.Path.Value)
	if err != nil {
		return spec.Path.Value
	}
	return unquoted
}

// impureImports are the standard library's ways to the outside. Whatever is
// below one of them is meant too.
func impureImports() []string {
	return []string{
		"context", "crypto/rand", "database/sql", "io/ioutil", "log", "math/rand",
		"net/http", "net/rpc", "net/smtp", "net/textproto", "os", "plugin", "syscall", "testing", "unsafe",
	}
}

// impureCalls read a clock, wait, print, or speak to a network. What net has
// besides only parses, as do net/url and net/netip.
func impureCalls() map[string][]string {
	return map[string][]string{
		"time": {"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"},
		"net": {
			"Dial", "DialTimeout", "Dialer", "Listen", "ListenPacket", "Listener", "Conn", "Resolver", "LookupAddr",
			"LookupHost", "LookupIP", "ResolveIPAddr", "ResolveTCPAddr", "Interfaces", "InterfaceAddrs",
		},
		"fmt": {"Print", "Printf", "Println", "Scan", "Scanf", "Scanln"},
		// Of Nomad's API the pure packages use the documents' types alone.
		nomadAPI: {"NewClient", "DefaultConfig", "Client"},
	}
}

// nomadAPI is Nomad's API: its types of documents, and its client.
const nomadAPI = "github.com/hashicorp/nomad/api"

// sizes reads and writes numbers of bytes.
const sizes = "github.com/dustin/go-humanize"

// librariesInPure lists what packages without input and output may use. A
// decision that needed any other library would not be ours to explain.
func librariesInPure(l layer) []string {
	if l == language {
		return []string{"github.com/hashicorp/hcl/v2", "github.com/zclconf/go-cty", "golang.org/x/text", sizes}
	}
	return []string{nomadAPI, sizes}
}

// Pure checks that pure packages take everything as arguments.
func Pure(r *Repo) []Finding {
	var findings []Finding
	for _, p := range r.Packages {
		l := layerOf(p.Path)
		if l != pure && l != words && l != language {
			continue
		}
		for _, f := range p.Files {
			if f.Test {
				continue
			}
			findings = append(findings, impureImportsOf(r, f, l)...)
			findings = append(findings, impureCallsOf(r, f)...)
		}
	}
	return findings
}

func impureImportsOf(r *Repo, f *File, l layer) []Finding {
	var findings []Finding
	for _, spec := range f.Tree.Imports {
		name := importPath(spec)
		outside := slices.ContainsFunc(impureImports(), func(impure string) bool { return under(name, impure) })
		if outside {
			findings = append(findings, r.at(spec.Pos(), "a pure package must not import %s: take what it gives as an argument", name))
		}
		first, _, _ := strings.Cut(name, "/")
		third := strings.Contains(first, ".") && !under(name, Module)
		known := slices.ContainsFunc(librariesInPure(l), func(library string) bool { return under(name, library) })
		if third && !known {
			findings = append(findings, r.at(spec.Pos(), "a pure package must not import the library %s", name))
		}
	}
	return findings
}

func impureCallsOf(r *Repo, f *File) []Finding {
	var findings []Finding
	names := map[string]string{} // local name -> import path
	for _, spec := range f.Tree.Imports {
		local := path.Base(importPath(spec))
		if spec.Name != nil {
			local = spec.Name.Name
		}
		names[local] = importPath(spec)
	}
	ast.Inspect(f.Tree, func(node ast.Node) bool {
		selector, ok := node.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		name, ok := selector.X.(*ast.Ident)
		if ok && name.Obj == nil && slices.Contains(impureCalls()[names[name.Name]], selector.Sel.Name) {
			findings = append(findings, r.at(selector.Pos(), "a pure package must not use %s.%s: take it as an argument", name.Name, selector.Sel.Name))
		}
		return true
	})
	return findings
}
