package budgetspec

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// File is one source file of a module. Name is how diagnostics and decisions
// refer to it.
type File struct {
	Name    string
	Content []byte
}

// Parse reads a module: all the files together. The policy is nil when the
// diagnostics contain an error; otherwise they are warnings. Diagnostics are in
// the order of files and lines; the order of the files makes no difference.
func Parse(files []File) (*budget.Policy, hcl.Diagnostics) {
	files = sorted(files)
	d := newDecoder(Revision(files))
	bodies := make(map[string]*hclsyntax.Body, len(files))
	for i, f := range files {
		if i > 0 && files[i-1].Name == f.Name {
			d.report(duplicateFile(f.Name))
			continue
		}
		body, diags := parseFile(f)
		d.diags = append(d.diags, diags...)
		if diags.HasErrors() {
			continue
		}
		d.source[f.Name] = f.Content
		bodies[f.Name] = body
	}
	d.broken = d.diags.HasErrors()
	d.declare(bodies)
	for _, f := range files {
		if body := bodies[f.Name]; body != nil && !isVarsFile(f.Name) {
			d.module(body)
			delete(bodies, f.Name) // of two files with one name
		}
	}
	d.finish()
	if !d.broken { // what a broken file declares would be reported as missing
		d.check()
	}
	diags := tidy(d.diags)
	if diags.HasErrors() {
		return nil, diags
	}
	return d.policy, diags
}

// Revision is the digest of a module's file names and contents, in any order
// of the files: 64 hexadecimal digits.
func Revision(files []File) string {
	digest := sha256.New()
	write := func(b []byte) { // with its length, so that no two modules look alike
		digest.Write(binary.BigEndian.AppendUint64(nil, uint64(len(b))))
		digest.Write(b)
	}
	for _, f := range sorted(files) {
		write([]byte(f.Name))
		write(f.Content)
	}
	return hex.EncodeToString(digest.Sum(nil))
}

func sorted(files []File) []File {
	return slices.SortedFunc(slices.Values(files), func(a, b File) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), slices.Compare(a.Content, b.Content))
	})
}

// Bounds on a source file. They are far beyond any policy for people and keep
// the recursive parser's stack and the output small, whatever a file holds.
const (
	fileBytesMax   = 512 << 10 // Consul's limit on a value
	lineBytesMax   = 4096
	nestingMax     = 64
	operatorsMax   = 4096
	diagnosticsMax = 100
)

func parseFile(f File) (*hclsyntax.Body, hcl.Diagnostics) {
	if d := oversized(f); d != nil {
		return nil, hcl.Diagnostics{d}
	}
	file, diags := hclsyntax.ParseConfig(f.Content, f.Name, hcl.InitialPos)
	if diags.HasErrors() {
		return nil, diags
	}
	return file.Body.(*hclsyntax.Body), diags
}

// oversized returns the first bound that a file exceeds, or nil. The scanner
// does not recurse, so it is safe where the parser would not be.
func oversized(f File) *hcl.Diagnostic {
	if len(f.Content) > fileBytesMax {
		return fileTooLarge(f.Name, len(f.Content))
	}
	line := 1
	for text := range strings.Lines(string(f.Content)) {
		if len(text) > lineBytesMax {
			return lineTooLong(hcl.Range{Filename: f.Name, Start: hcl.Pos{Line: line, Column: 1}, End: hcl.Pos{Line: line, Column: 1}}, len(text))
		}
		line++
	}
	tokens, _ := hclsyntax.LexConfig(f.Content, f.Name, hcl.InitialPos)
	depth, operators := 0, 0
	for _, token := range tokens {
		switch token.Type { //nolint:exhaustive // only tokens that deepen the tree matter
		case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack, hclsyntax.TokenOParen,
			hclsyntax.TokenTemplateInterp, hclsyntax.TokenOQuote, hclsyntax.TokenOHeredoc:
			depth++
		case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenCParen,
			hclsyntax.TokenCQuote, hclsyntax.TokenCHeredoc, hclsyntax.TokenTemplateSeqEnd:
			depth = max(0, depth-1) // closing what is not open gains nothing
		case hclsyntax.TokenTemplateControl:
			depth++
			operators++
		case hclsyntax.TokenIdent, hclsyntax.TokenNewline, hclsyntax.TokenComment, hclsyntax.TokenEqual,
			hclsyntax.TokenNumberLit, hclsyntax.TokenQuotedLit, hclsyntax.TokenStringLit,
			hclsyntax.TokenComma, hclsyntax.TokenEOF:
		default:
			operators++
		}
		if depth > nestingMax || operators > operatorsMax {
			return tooDeep(token.Range)
		}
	}
	return nil
}

// tidy puts diagnostics in the order of files and lines, once each, and cuts a
// flood short.
func tidy(diags hcl.Diagnostics) hcl.Diagnostics {
	slices.SortStableFunc(diags, func(a, b *hcl.Diagnostic) int {
		x, y := subject(a), subject(b)
		return cmp.Or(strings.Compare(x.Filename, y.Filename), cmp.Compare(x.Start.Byte, y.Start.Byte),
			cmp.Compare(a.Severity, b.Severity), strings.Compare(a.Summary, b.Summary), strings.Compare(a.Detail, b.Detail))
	})
	if len(diags) <= diagnosticsMax {
		return diags
	}
	rest := diags[diagnosticsMax:]
	return append(slices.Clip(diags[:diagnosticsMax]), moreDiagnostics(len(rest), rest.HasErrors()))
}

// subject is where a diagnostic points; the zero range for the whole module.
func subject(d *hcl.Diagnostic) hcl.Range {
	if d.Subject == nil {
		return hcl.Range{}
	}
	return *d.Subject
}
