package budgetspec

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// lineWidth wraps the details of rendered diagnostics.
const lineWidth = 78

// Render writes diagnostics for people, each with file, line and the lines of
// source that it is about; color adds terminal colours.
func Render(w io.Writer, files []File, diags hcl.Diagnostics, color bool) error {
	parsed := map[string]*hcl.File{}
	for _, f := range files {
		parsed[f.Name] = &hcl.File{Bytes: f.Content}
		if oversized(f) != nil {
			continue
		}
		// Names the block that a line stands in.
		if file, _ := hclsyntax.ParseConfig(f.Content, f.Name, hcl.InitialPos); file != nil {
			parsed[f.Name] = file
		}
	}
	if err := hcl.NewDiagnosticTextWriter(w, parsed, lineWidth, color).WriteDiagnostics(diags); err != nil {
		return fmt.Errorf("write diagnostics: %w", err)
	}
	return nil
}

// Diagnostic is the machine-readable form of one mistake. Its JSON names are
// stable.
type Diagnostic struct {
	// Severity is "error" or "warning".
	Severity string `json:"severity"`
	Summary  string `json:"summary"`
	Detail   string `json:"detail"`
	// File is empty when the whole module is meant; Line and Column count from
	// 1, columns in characters.
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
	// Snippet is the line of source, without blanks at its ends, at most 200
	// characters.
	Snippet string `json:"snippet"`
}

// snippetMax bounds Snippet, in characters.
const snippetMax = 200

// Describe converts diagnostics to their machine-readable form, in order.
func Describe(files []File, diags hcl.Diagnostics) []Diagnostic {
	content := map[string][]byte{}
	for _, f := range files {
		content[f.Name] = f.Content
	}
	described := make([]Diagnostic, 0, len(diags))
	for _, d := range diags {
		one := Diagnostic{Severity: "warning", Summary: d.Summary, Detail: d.Detail}
		if d.Severity == hcl.DiagError {
			one.Severity = "error"
		}
		if d.Subject != nil {
			one.File, one.Line, one.Column = d.Subject.Filename, d.Subject.Start.Line, d.Subject.Start.Column
			one.Snippet = snippet(content[one.File], one.Line)
		}
		described = append(described, one)
	}
	return described
}

func snippet(content []byte, line int) string {
	for text := range strings.Lines(string(content)) {
		if line--; line > 0 {
			continue
		}
		runes := []rune(strings.ToValidUTF8(strings.TrimSpace(text), "\uFFFD"))
		return string(runes[:min(len(runes), snippetMax)])
	}
	return ""
}

// Report is what `validate -json` prints and what is stored beside a policy.
type Report struct {
	// Valid means that there is no error; warnings may be present.
	Valid       bool         `json:"valid"`
	Errors      int          `json:"errors"`
	Warnings    int          `json:"warnings"`
	Diagnostics []Diagnostic `json:"diagnostics"`
}

// NewReport describes diagnostics and counts them.
func NewReport(files []File, diags hcl.Diagnostics) Report {
	r := Report{Diagnostics: Describe(files, diags)}
	for _, d := range r.Diagnostics {
		if d.Severity == "error" {
			r.Errors++
		} else {
			r.Warnings++
		}
	}
	r.Valid = r.Errors == 0
	return r
}

// WriteJSON writes the report of the diagnostics as indented JSON with a final
// newline.
func WriteJSON(w io.Writer, files []File, diags hcl.Diagnostics) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(NewReport(files, diags)); err != nil {
		return fmt.Errorf("write diagnostics as JSON: %w", err)
	}
	return nil
}
