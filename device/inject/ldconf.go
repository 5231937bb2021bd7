package inject

import (
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// fileMost bounds every text file that is read: the kernel's list of MIG
// minors, the longest of them, has 25 bytes for each of some thousand lines.
const fileMost = 1 << 20

// readText reads a file; one of more than fileMost bytes is an error.
func readText(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close() // read only
	text, err := io.ReadAll(io.LimitReader(f, fileMost+1))
	if err == nil && len(text) > fileMost {
		return "", fmt.Errorf("%s has more than %d bytes", file, fileMost)
	}
	return string(text), err
}

// configuredDirs are the directories that etc/ld.so.conf adds below a root. It
// is read instead of the cache made from it, whose format is glibc's own.
func configuredDirs(root string) []string {
	var dirs []string
	seen := map[string]bool{}
	pending := []string{"/etc/ld.so.conf"}
	for len(pending) > 0 {
		file := pending[0]
		pending = pending[1:]
		if seen[file] {
			continue // files may include each other
		}
		seen[file] = true
		text, err := readText(filepath.Join(root, file))
		if err != nil {
			continue
		}
		here, includes := parseLinkerConfig(text, path.Dir(file))
		dirs = append(dirs, here...)
		for _, pattern := range includes {
			for _, name := range listDir(filepath.Join(root, path.Dir(pattern))) {
				if match, err := path.Match(path.Base(pattern), name); err == nil && match {
					pending = append(pending, path.Join(path.Dir(pattern), name))
				}
			}
		}
	}
	return slices.DeleteFunc(dirs, func(dir string) bool { return slices.Contains(usualLibraryDirs(), dir) })
}

// parseLinkerConfig reads the directories and the patterns of included files
// from a text in the form of ld.so.conf that lies in dir. What is no absolute
// directory is left out, as ldconfig does.
func parseLinkerConfig(text, dir string) (dirs, includes []string) {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		switch fields[0] {
		case "include":
			for _, pattern := range fields[1:] {
				if !path.IsAbs(pattern) {
					pattern = path.Join(dir, pattern)
				}
				includes = append(includes, path.Clean(pattern))
			}
		case "hwcap": // obsolete, and no directory
		default:
			for _, entry := range strings.FieldsFunc(line, func(r rune) bool { return r == ':' || r == ',' || r == ' ' || r == '\t' || r == '\r' || r == '\n' }) {
				if path.IsAbs(entry) {
					dirs = append(dirs, path.Clean(entry))
				}
			}
		}
	}
	return dirs, includes
}
