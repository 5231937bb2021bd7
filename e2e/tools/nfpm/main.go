// Command nfpm makes packages with the library nfpm, for Debian and RPM.
//
//	nfpm version                       the version of the library
//	nfpm package deb|rpm CONFIG FILE   the package that CONFIG describes, as FILE
//
// CONFIG is nfpm's YAML; $NAMES in it are those of the environment. The time
// in packages is SOURCE_DATE_EPOCH.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb"
	_ "github.com/goreleaser/nfpm/v2/rpm"
)

// library is the module whose version this program has.
const library = "github.com/goreleaser/nfpm/v2"

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "nfpm: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string, stdout io.Writer) error {
	switch {
	case len(args) == 1 && args[0] == "version":
		return version(stdout)
	case len(args) == 4 && args[0] == "package":
		return makePackage(args[1], args[2], args[3])
	}
	return errors.New("usage: nfpm version | nfpm package deb|rpm CONFIG FILE")
}

func version(stdout io.Writer) error {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return errors.New("this program does not say what it was built from")
	}
	for _, module := range info.Deps {
		if module.Path == library {
			_, err := fmt.Fprintf(stdout, "nfpm %s\n", module.Version)
			return err
		}
	}
	return fmt.Errorf("%s is not among what this program was built from", library)
}

func makePackage(format, from, to string) error {
	config, err := nfpm.ParseFileWithEnvMapping(from, os.Getenv)
	if err != nil {
		return fmt.Errorf("read %s: %w", from, err)
	}
	info, err := config.Get(format)
	if err != nil {
		return fmt.Errorf("read %s for %s: %w", from, format, err)
	}
	packager, err := nfpm.Get(format)
	if err != nil {
		return err
	}
	info = nfpm.WithDefaults(info)
	if err := nfpm.PrepareForPackager(info, format); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	if err := packager.Package(info, out); err != nil {
		return errors.Join(fmt.Errorf("make %s: %w", to, err), out.Close(), os.Remove(to))
	}
	return out.Close()
}
