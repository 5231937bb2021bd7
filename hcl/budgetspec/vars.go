package budgetspec

import (
	"bytes"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/nomad-governor/governor/quotaagent/budget"
	"github.com/zclconf/go-cty/cty"
)

// Options change how a module is read.
type Options struct {
	// Vars are values of variables by name, as expressions of the language:
	// "0.5", "[1, 2]". For a variable of type string the text means itself, unless
	// it stands in quotes. They win over the values in the module's files.
	Vars map[string]string
}

// ParseWith is Parse with options. The result is that of Parse(SetVars(files,
// opts.Vars)): what a person tried with -var is what apply puts into the store.
func ParseWith(files []File, opts Options) (*budget.Policy, hcl.Diagnostics) {
	files, diags := SetVars(files, opts.Vars)
	if diags.HasErrors() {
		return nil, diags
	}
	return Parse(files)
}

// VarsFile is where SetVars adds values.
const VarsFile = "set.vars.hcl"

// SetVars returns the module with values of variables written into its vars
// files (*.vars.hcl): where a file gives the variable a value it is replaced,
// else it is added to VarsFile. The given files are not changed. Whether a value
// has the right type is Parse's to say; what is not an expression, and variables
// that no file declares, are errors here.
func SetVars(files []File, vars map[string]string) ([]File, hcl.Diagnostics) {
	if len(vars) == 0 {
		return files, nil
	}
	d := newDecoder("")
	for _, f := range sorted(files) {
		body, diags := parseFile(f)
		if diags.HasErrors() {
			return nil, tidy(diags)
		}
		d.source[f.Name] = f.Content
		for _, block := range body.Blocks {
			if block.Type == "variable" && !isVarsFile(f.Name) {
				d.variableBlock(block)
			}
		}
	}
	declared := d.variables
	d.diags = nil // Parse reports them
	out := slices.Clone(files)
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		v := declared[name]
		if v == nil {
			d.report(unknownSetVariable(name, slices.Sorted(maps.Keys(declared))))
			continue
		}
		tokens, ok := valueTokens(vars[name], v.declared)
		if !ok {
			d.report(badSetValue(name, vars[name], v.declared))
			continue
		}
		out = setVariable(out, name, tokens)
	}
	if d.diags.HasErrors() {
		return nil, d.diags
	}
	return out, nil
}

// valueTokens is a value as it is written in a file: an expression on one line
// that refers to nothing, or for a variable of type string any text.
func valueTokens(text string, t cty.Type) (hclwrite.Tokens, bool) {
	trimmed := strings.TrimSpace(text)
	if t == cty.String && !strings.HasPrefix(trimmed, `"`) {
		return hclwrite.TokensForValue(cty.StringVal(text)), true
	}
	if oversized(File{Content: []byte(text)}) != nil || strings.ContainsAny(trimmed, "\r\n") {
		return nil, false
	}
	// Written into a file it must be that one value and nothing else.
	file, diags := hclsyntax.ParseConfig([]byte("value = "+trimmed+"\n"), "", hcl.InitialPos)
	if diags.HasErrors() {
		return nil, false
	}
	body := file.Body.(*hclsyntax.Body)
	if len(body.Attributes) != 1 || len(body.Blocks) != 0 || len(body.Attributes["value"].Expr.Variables()) > 0 {
		return nil, false
	}
	written, diags := hclwrite.ParseConfig([]byte("value = "+trimmed+"\n"), "", hcl.InitialPos)
	if diags.HasErrors() {
		return nil, false
	}
	return written.Body().GetAttribute("value").Expr().BuildTokens(nil), true
}

// setVariable writes a value into the vars files that have one for the variable,
// or into VarsFile.
func setVariable(files []File, name string, tokens hclwrite.Tokens) []File {
	found := false
	for i, f := range files {
		if !isVarsFile(f.Name) {
			continue
		}
		file, diags := hclwrite.ParseConfig(f.Content, f.Name, hcl.InitialPos)
		if diags.HasErrors() || file.Body().GetAttribute(name) == nil {
			continue
		}
		file.Body().SetAttributeRaw(name, tokens)
		files[i].Content, found = file.Bytes(), true
	}
	if found {
		return files
	}
	i := slices.IndexFunc(files, func(f File) bool { return f.Name == VarsFile })
	if i < 0 {
		files = append(files, File{Name: VarsFile})
		i = len(files) - 1
	}
	file := hclwrite.NewEmptyFile()
	file.Body().SetAttributeRaw(name, tokens)
	content := slices.Clone(files[i].Content)
	if len(content) > 0 && !bytes.HasSuffix(content, []byte("\n")) {
		content = append(content, '\n')
	}
	files[i].Content = hclwrite.Format(append(content, file.Bytes()...))
	return files
}
