package api

import (
	"fmt"
	"net/http"

	"github.com/nomad-governor/governor/hcl/budgetspec"
)

// UploadMax bounds an upload: what it carries must fit into one transaction of
// the store anyway, 512 KiB.
const UploadMax = 1 << 20

// Upload is a policy as the CLI sends it.
type Upload struct {
	Files []budgetspec.File `json:"files"`
	// Version of the policy that it replaces.
	Version string `json:"version"`
	// Commit is the version-control revision the files came from, if known.
	Commit string `json:"commit,omitempty"`
}

// commitMax bounds the name of a version-control revision, in bytes.
const commitMax = 256

// DecodeUpload reads a policy upload.
func DecodeUpload(c Call) (Upload, error) {
	u, err := Decode[Upload](c)
	switch {
	case err != nil:
		return Upload{}, err
	case len(u.Files) == 0:
		return Upload{}, &Problem{Status: http.StatusBadRequest, Text: "the upload has no files; to remove all budgets delete the keys in the store"}
	case len(u.Commit) > commitMax:
		return Upload{}, &Problem{Status: http.StatusBadRequest, Text: fmt.Sprintf("the commit has %d bytes; at most %d are kept", len(u.Commit), commitMax)}
	}
	return u, nil
}
