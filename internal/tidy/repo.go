package tidy

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Module is the import path of the repository's root.
const Module = "github.com/nomad-governor/governor"

// Finding is one breach of a rule.
type Finding struct {
	// File is relative to the repository's root.
	File string
	// Line is 0 when the finding is about the whole file or folder.
	Line int
	// Text says what is wrong and what to do.
	Text string
}

// String formats a finding as file:line: text.
func (f Finding) String() string {
	if f.Line == 0 {
		return f.File + ": " + f.Text
	}
	return fmt.Sprintf("%s:%d: %s", f.File, f.Line, f.Text)
}

// Repo is a parsed repository.
type Repo struct {
	// Packages are the folders with Go files, sorted by path.
	Packages []*Package
	// Texts are the files that people wrote, Go files included, by path.
	Texts map[string]string
	// Dirs are all folders, relative to the root; Files are all files.
	Dirs  []string
	Files map[string]bool
	// Fset positions the syntax trees.
	Fset *token.FileSet
}

// Package is one folder of Go files.
type Package struct {
	// Path is relative to the repository's root, "quotaagent/ledger".
	Path  string
	Files []*File
}

// File is one Go file.
type File struct {
	// Path is relative to the repository's root.
	Path  string
	Test  bool // its name ends in _test.go
	Tree  *ast.File
	Lines int
}

// Main reports whether the package is a program.
func (p *Package) Main() bool {
	for _, f := range p.Files {
		if !f.Test {
			return f.Tree.Name.Name == "main"
		}
	}
	return false
}

// skippedDirs hold what nobody wrote here, or what is made by a task.
func skippedDirs() []string {
	return []string{".git", "bin", "node_modules", "_out", "vendor", ".cache"}
}

// textExtensions mark the files whose words are checked.
func textExtensions() []string {
	return []string{
		".go", ".c", ".h", ".sh", ".hcl", ".nomad", ".md", ".mjs", ".js", ".json", ".css",
		".html", ".yml", ".yaml", ".mod", ".txt", ".txtar", ".golden",
	}
}

// Load reads and parses a repository. Modules nested in it are left out of
// Packages: they only pin tools.
func Load(root fs.FS) (*Repo, error) {
	repo := &Repo{Texts: map[string]string{}, Files: map[string]bool{}, Fset: token.NewFileSet()}
	packages := map[string]*Package{}
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if name != "." && slices.Contains(skippedDirs(), entry.Name()) {
				return fs.SkipDir
			}
			repo.Dirs = append(repo.Dirs, name)
			return nil
		}
		repo.Files[name] = true
		if !isText(name) {
			return nil
		}
		content, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		repo.Texts[name] = string(content)
		if path.Ext(name) == ".go" && !strings.Contains(name, "testdata/") {
			return repo.addGo(packages, name, content)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the repository: %w", err)
	}
	for _, p := range packages {
		if !repo.nested(p.Path) {
			repo.Packages = append(repo.Packages, p)
		}
	}
	slices.SortFunc(repo.Packages, func(a, b *Package) int { return cmp.Compare(a.Path, b.Path) })
	return repo, nil
}

func isText(name string) bool {
	base := path.Base(name)
	return slices.Contains(textExtensions(), path.Ext(name)) || base == "GNUmakefile" || name == ".ci/run"
}

func (r *Repo) addGo(packages map[string]*Package, name string, content []byte) error {
	tree, err := parser.ParseFile(r.Fset, name, content, parser.ParseComments)
	if err != nil {
		return fmt.Errorf("parse %s: %w", name, err)
	}
	dir := path.Dir(name)
	if packages[dir] == nil {
		packages[dir] = &Package{Path: dir}
	}
	packages[dir].Files = append(packages[dir].Files, &File{
		Path: name, Tree: tree,
		Test:  strings.HasSuffix(name, "_test.go"),
		Lines: strings.Count(string(content), "\n"),
	})
	return nil
}

// nested reports whether a folder belongs to a module inside this one.
func (r *Repo) nested(dir string) bool {
	for ; dir != "."; dir = path.Dir(dir) {
		if _, ok := r.Texts[path.Join(dir, "go.mod")]; ok {
			return true
		}
	}
	return false
}

// at makes a finding at a position.
func (r *Repo) at(pos token.Pos, format string, args ...any) Finding {
	position := r.Fset.Position(pos)
	return Finding{File: position.Filename, Line: position.Line, Text: fmt.Sprintf(format, args...)}
}

// Rules lists every rule by name.
func Rules() map[string]func(*Repo) []Finding {
	return map[string]func(*Repo) []Finding{
		"layers":       Layers,
		"libraries":    Libraries,
		"pure":         Pure,
		"docs":         PackageDocs,
		"comments":     Comments,
		"sizes":        Sizes,
		"init":         NoInit,
		"words":        Words,
		"machinepaths": MachinePaths,
		"changelog":    Changelog,
		"links":        Links,
	}
}
