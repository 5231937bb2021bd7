package budgetspec

import (
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclwrite"
)

// Format puts a source file into the canonical layout: indentation, alignment
// of equals signs and comments. It changes no meaning. A file that is not HCL
// comes back as nil with the reasons.
func Format(name string, src []byte) ([]byte, hcl.Diagnostics) {
	if _, diags := parseFile(File{Name: name, Content: src}); diags.HasErrors() {
		return nil, tidy(diags)
	}
	return hclwrite.Format(src), nil
}
