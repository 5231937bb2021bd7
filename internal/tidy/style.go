package tidy

import (
	"fmt"
	"go/ast"
	"path"
	"slices"
	"strings"
)

// The sizes that keep a file readable at one sitting and a function on one screen.
const (
	maxFunctionLines = 70
	maxFileLines     = 500
	maxTestFileLines = 800
)

// longFunctions may be longer, each for a reason. "path Name" -> reason.
func longFunctions() map[string]string { return map[string]string{} }

// Sizes checks the length of files and functions. Tests may be longer, and
// their functions are tables more often than code.
func Sizes(r *Repo) []Finding {
	var findings []Finding
	for _, p := range r.Packages {
		for _, f := range p.Files {
			limit := maxFileLines
			if f.Test {
				limit = maxTestFileLines
			}
			if f.Lines > limit {
				findings = append(findings, Finding{File: f.Path, Text: fmt.Sprintf("has %d lines, more than %d: cut it where its subject changes", f.Lines, limit)})
			}
			if f.Test {
				continue
			}
			for _, declaration := range f.Tree.Decls {
				function, ok := declaration.(*ast.FuncDecl)
				if !ok || longFunctions()[f.Path+" "+function.Name.Name] != "" {
					continue
				}
				lines := r.Fset.Position(function.End()).Line - r.Fset.Position(function.Pos()).Line + 1
				if lines > maxFunctionLines {
					findings = append(findings, r.at(function.Pos(), "%s has %d lines, more than %d: push branches up and loops down into functions of their own", function.Name.Name, lines, maxFunctionLines))
				}
			}
		}
	}
	return findings
}

// NoInit forbids init functions: what runs before main cannot be ordered,
// tested or passed arguments.
func NoInit(r *Repo) []Finding {
	var findings []Finding
	for _, p := range r.Packages {
		for _, f := range p.Files {
			for _, declaration := range f.Tree.Decls {
				function, ok := declaration.(*ast.FuncDecl)
				if ok && function.Recv == nil && function.Name.Name == "init" {
					findings = append(findings, r.at(function.Pos(), "no init functions: start it where it is used"))
				}
			}
		}
	}
	return findings
}

// PackageDocs checks that each package says what it is for: in doc.go, or in
// a program next to main. A folder of tests alone needs none.
func PackageDocs(r *Repo) []Finding {
	var findings []Finding
	for _, p := range r.Packages {
		var documented []string
		code := false
		for _, f := range p.Files {
			if f.Test {
				continue
			}
			code = true
			if f.Tree.Doc != nil {
				documented = append(documented, path.Base(f.Path))
			}
		}
		switch {
		case !code:
		case len(documented) == 0:
			findings = append(findings, Finding{File: p.Path, Text: "has no package comment: say in doc.go what it is for, what it is not, and what it keeps true"})
		case !p.Main() && !slices.Contains(documented, "doc.go"):
			findings = append(findings, Finding{File: p.Path, Text: "has its package comment in " + documented[0] + ": move it to doc.go"})
		}
	}
	return findings
}

// plainMethods need no comment: an interface of the standard library says
// what they do.
func plainMethods() []string {
	return []string{
		"Error", "Unwrap", "Is", "String", "Read", "Write", "Close", "ServeHTTP", "Len", "Less", "Swap",
		"MarshalJSON", "UnmarshalJSON", "MarshalText", "UnmarshalText",
	}
}

// Comments checks that exported names have comments that begin with the name.
func Comments(r *Repo) []Finding {
	var findings []Finding
	for _, p := range r.Packages {
		if p.Main() {
			continue
		}
		for _, f := range p.Files {
			if f.Test {
				continue
			}
			for _, declaration := range f.Tree.Decls {
				switch d := declaration.(type) {
				case *ast.FuncDecl:
					findings = append(findings, functionComment(r, d)...)
				case *ast.GenDecl:
					findings = append(findings, declarationComments(r, d)...)
				}
			}
		}
	}
	return findings
}

func functionComment(r *Repo, d *ast.FuncDecl) []Finding {
	name := d.Name.Name
	if !ast.IsExported(name) || !exportedReceiver(d) || (d.Recv != nil && slices.Contains(plainMethods(), name)) {
		return nil
	}
	return beginsWith(r, d.Name, d.Doc)
}

// exportedReceiver reports whether a function is no method, or one of an exported type.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	exported := false
	ast.Inspect(d.Recv.List[0].Type, func(node ast.Node) bool {
		if name, ok := node.(*ast.Ident); ok {
			exported = exported || ast.IsExported(name.Name)
			return false
		}
		return true
	})
	return exported
}

func declarationComments(r *Repo, d *ast.GenDecl) []Finding {
	var findings []Finding
	for _, spec := range d.Specs {
		switch s := spec.(type) {
		case *ast.TypeSpec:
			doc := s.Doc
			if doc == nil {
				doc = d.Doc
			}
			if ast.IsExported(s.Name.Name) {
				findings = append(findings, beginsWith(r, s.Name, doc)...)
			}
		case *ast.ValueSpec:
			// One comment may speak for a whole group of constants.
			if s.Doc != nil || s.Comment != nil || d.Doc != nil {
				continue
			}
			for _, name := range s.Names {
				if ast.IsExported(name.Name) {
					findings = append(findings, r.at(name.Pos(), "%s is exported and has no comment", name.Name))
				}
			}
		}
	}
	return findings
}

// beginsWith checks that a comment is there and begins with the name, after an
// article at most.
func beginsWith(r *Repo, name *ast.Ident, doc *ast.CommentGroup) []Finding {
	if doc == nil {
		return []Finding{r.at(name.Pos(), "%s is exported and has no comment", name.Name)}
	}
	text := doc.Text()
	for _, article := range []string{"", "A ", "An ", "The "} {
		rest, ok := strings.CutPrefix(text, article+name.Name)
		if ok && (rest == "" || !identifierByte(rest[0])) {
			return nil
		}
	}
	return []Finding{r.at(name.Pos(), "the comment of %s does not begin with its name", name.Name)}
}

// identifierByte reports whether c would continue an ASCII identifier.
func identifierByte(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
