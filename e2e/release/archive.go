package release

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// collect adds a file, or all files below a directory, under their base names and the
// name of that directory.
func collect(files map[string]string, root, path string) error {
	from := filepath.Join(root, filepath.FromSlash(path))
	return filepath.WalkDir(from, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(filepath.Dir(from), file)
		if err != nil {
			return err
		}
		files[filepath.ToSlash(name)] = file
		return nil
	})
}

// writeArchive packs files, by their names in the archive, in the order of these.
// Whose they are, when they were written and what else their disk knows does not count;
// only the program may be executed.
func writeArchive(target string, files map[string]string, program string, at time.Time) error {
	out, err := os.Create(target)
	if err != nil {
		return err
	}
	zipped, err := gzip.NewWriterLevel(out, gzip.BestCompression)
	if err != nil {
		return errors.Join(err, out.Close())
	}
	archive := tar.NewWriter(zipped)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		content, readErr := os.ReadFile(files[name])
		if readErr != nil {
			return errors.Join(readErr, out.Close())
		}
		mode := int64(0o644)
		if name == program {
			mode = 0o755
		}
		header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content)), ModTime: at.UTC(), Format: tar.FormatUSTAR}
		err = errors.Join(err, archive.WriteHeader(header))
		_, writeErr := archive.Write(content)
		err = errors.Join(err, writeErr)
	}
	if err = errors.Join(err, archive.Close(), zipped.Close(), out.Close()); err != nil {
		return fmt.Errorf("pack %s: %w", filepath.Base(target), err)
	}
	return nil
}
