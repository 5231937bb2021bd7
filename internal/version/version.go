package version

import "fmt"

// Version is the release that this source becomes, in semantic versioning
// without a leading v.
const Version = "0.1.0"

// Prerelease is "dev" between releases and empty in one.
const Prerelease = "dev"

// String is the version as people read it: "0.1.0-dev".
func String() string {
	if Prerelease == "" {
		return Version
	}
	return fmt.Sprintf("%s-%s", Version, Prerelease)
}
