// Command fakenvml-compile checks a fixture of the fake NVML library and
// compiles it to the flat file that the library reads.
//
//	fakenvml-compile -fixture dgx1v.hcl -node client1 -o /tmp/client1.flat
//
// Two nodes with one fixture get different UUIDs from different -node values.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/hashicorp/hcl/v2"

	"github.com/nomad-governor/governor/device/fakenvml/fixture"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("fakenvml-compile", flag.ContinueOnError)
	flags.SetOutput(stderr)
	path := flags.String("fixture", "", "fixture file (HCL)")
	node := flags.String("node", "", "node name; UUIDs are derived from it")
	sysfs := flags.String("sysfs", "", "folder to write the node's sysfs into; none when empty")
	out := flags.String("o", "", "file to write; the standard output when empty")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if *path == "" || flags.NArg() > 0 {
		fmt.Fprintln(stderr, "usage: fakenvml-compile -fixture FILE [-node NAME] [-o FILE] [-sysfs FOLDER]")
		return 2
	}
	src, err := os.ReadFile(*path)
	if err != nil {
		fmt.Fprintf(stderr, "read fixture: %v\n", err)
		return 1
	}
	f, diags := fixture.Decode(src, *path)
	if diags.HasErrors() {
		writer := hcl.NewDiagnosticTextWriter(stderr, map[string]*hcl.File{*path: {Bytes: src}}, 100, false)
		_ = writer.WriteDiagnostics(diags) // stderr is all we have
		return 1
	}
	if err := write(*out, f.Flat(*node), stdout); err != nil {
		fmt.Fprintf(stderr, "write compiled fixture: %v\n", err)
		return 1
	}
	if *sysfs != "" {
		if err := f.WriteSysfs(*sysfs); err != nil {
			fmt.Fprintf(stderr, "write sysfs: %v\n", err)
			return 1
		}
	}
	return 0
}

// write replaces the file by rename, so that a reader never sees half of it.
func write(path string, content []byte, stdout io.Writer) error {
	if path == "" {
		_, err := stdout.Write(content)
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(path), ".fakenvml-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) // gone already after a rename
	if _, err := temp.Write(content); err != nil {
		return err
	}
	if err := temp.Chmod(0o644); err != nil {
		return err
	}
	if err := temp.Close(); err != nil {
		return err
	}
	return os.Rename(temp.Name(), path)
}
