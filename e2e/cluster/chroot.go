package cluster

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// chrootCommands are what tasks of the end-to-end tests may run. A chroot of
// a few files makes an exec task start in a fraction of a second, where
// Nomad's default copies most of the host.
func chrootCommands() []string {
	return []string{"sh", "env", "sleep", "cat", "sort", "date", "true"}
}

// chrootFiles maps host files to their place in a task's chroot: the
// commands, the libraries that ldd says they need, and the user database. The
// host side has symbolic links resolved, because Nomad would hard-link the
// link itself and leave it dangling.
func chrootFiles(ctx context.Context) (map[string]string, error) {
	files := map[string]string{"/etc/passwd": "/etc/passwd", "/etc/group": "/etc/group"}
	for _, name := range chrootCommands() {
		path, err := exec.LookPath(name)
		if err != nil {
			return nil, fmt.Errorf("find %s for the task chroot: %w", name, err)
		}
		libraries, err := sharedLibraries(ctx, path)
		if err != nil {
			return nil, err
		}
		if err := embed(files, path, "/bin/"+name); err != nil {
			return nil, err
		}
		for _, library := range libraries {
			if err := embed(files, library, library); err != nil {
				return nil, err
			}
		}
	}
	return files, nil
}

// embed adds one file under the name that it has in the chroot.
func embed(files map[string]string, host, target string) error {
	source, err := filepath.EvalSymlinks(host)
	if err != nil {
		return fmt.Errorf("resolve %s for the task chroot: %w", host, err)
	}
	if other, taken := files[source]; taken && other != target {
		return fmt.Errorf("%s and %s are the same file %s: the task chroot needs separate commands, as on Debian", other, target, source)
	}
	files[source] = target
	return nil
}

// lddLine matches an absolute path in ldd's output, before its load address.
var lddLine = regexp.MustCompile(`(/\S+) \(0x[0-9a-f]+\)`)

// sharedLibraries lists the libraries that a program loads, the loader
// included, under the names by which the loader asks for them.
func sharedLibraries(ctx context.Context, program string) ([]string, error) {
	out, err := exec.CommandContext(ctx, "ldd", program).CombinedOutput()
	if err != nil {
		if strings.Contains(string(out), "not a dynamic executable") {
			return nil, nil
		}
		return nil, fmt.Errorf("ask ldd what %s loads: %w: %s", program, err, out)
	}
	return parseLdd(string(out)), nil
}

func parseLdd(out string) []string {
	var libraries []string
	for _, match := range lddLine.FindAllStringSubmatch(out, -1) {
		libraries = append(libraries, match[1])
	}
	return libraries
}
