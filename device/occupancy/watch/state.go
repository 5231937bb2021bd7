package watch

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/nomad-governor/governor/device/occupancy"
)

const (
	keyFile      = "grant.key"
	registerFile = "grants.json"
	// registerMax is far more than the register's limit makes.
	registerMax = 4 << 20
)

// LoadKey returns the key in a directory. Where there is none it makes one,
// and the directory. Whoever can read the key can make grants, and whoever can
// replace it can make them void; so it refuses a key or a directory that others
// could have touched.
func LoadKey(dir string, random io.Reader) (occupancy.Key, error) {
	if err := prepare(dir); err != nil {
		return occupancy.Key{}, err
	}
	path := filepath.Join(dir, keyFile)
	key, err := readKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	secret := make([]byte, occupancy.KeySize)
	if _, err := io.ReadFull(random, secret); err != nil {
		return occupancy.Key{}, fmt.Errorf("make a grant key: %w", err)
	}
	err = create(path, []byte(hex.EncodeToString(secret)+"\n"), os.Link)
	if err != nil && !errors.Is(err, fs.ErrExist) { // another process may have been first: its key counts
		return occupancy.Key{}, fmt.Errorf("write the grant key %s: %w", path, err)
	}
	return readKey(path)
}

// prepare makes the state directory.
func prepare(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the state directory: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("look at the state directory: %w", err)
	}
	if !info.IsDir() || !own(info) || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("the state directory %s can be changed by others (mode %04o); it must belong to the plugin's user and nobody else may write in it: chmod 0700 it",
			dir, info.Mode().Perm())
	}
	return nil
}

// own reports whether a file belongs to the plugin's user or to root.
func own(info fs.FileInfo) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	return !ok || s.Uid == 0 || int(s.Uid) == os.Geteuid()
}

func readKey(path string) (occupancy.Key, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return occupancy.Key{}, fmt.Errorf("open the grant key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return occupancy.Key{}, fmt.Errorf("look at the grant key: %w", err)
	}
	if !info.Mode().IsRegular() || !own(info) || info.Mode().Perm()&0o077 != 0 {
		return occupancy.Key{}, fmt.Errorf("the grant key %s is open to others (mode %04o); it must be a file of the plugin's user with mode 0600: remove it, and a new one is made for the next tasks",
			path, info.Mode().Perm())
	}
	text, err := io.ReadAll(io.LimitReader(f, 4*occupancy.KeySize))
	if err != nil {
		return occupancy.Key{}, fmt.Errorf("read the grant key: %w", err)
	}
	secret, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(secret) != occupancy.KeySize {
		return occupancy.Key{}, fmt.Errorf("the grant key %s is damaged; it must be %d hexadecimal digits: remove it, and a new one is made for the next tasks",
			path, 2*occupancy.KeySize)
	}
	return occupancy.NewKey(secret)
}

// create writes a file that is there whole or not at all, readable only by the
// plugin's user. put gives it its name.
func create(path string, data []byte, put func(from, to string) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return put(f.Name(), path)
}

// storedRegister is the register as it is kept.
type storedRegister struct {
	Latest  map[string]storedEntry `json:"latest"`
	Adopted []string               `json:"adopted"`
}

type storedEntry struct {
	Nonce   string `json:"nonce"`
	Serial  int64  `json:"serial"`
	AllocID string `json:"alloc_id,omitempty"`
	Task    string `json:"task,omitempty"`
}

// readRegister reports false when there is none.
func readRegister(dir string) (occupancy.Register, bool, error) {
	path := filepath.Join(dir, registerFile)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return occupancy.Register{}, false, nil
	}
	if err != nil {
		return occupancy.Register{}, false, fmt.Errorf("open the register of grants: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, registerMax))
	if err != nil {
		return occupancy.Register{}, false, fmt.Errorf("read the register of grants: %w", err)
	}
	var stored storedRegister
	if err := json.Unmarshal(data, &stored); err != nil {
		return occupancy.Register{}, false, fmt.Errorf("the register of grants %s is damaged; remove it, and the allocations that run then are not judged: %w", path, err)
	}
	r := occupancy.Register{Latest: map[string]occupancy.Entry{}, Adopted: stored.Adopted}
	for id, e := range stored.Latest {
		r.Latest[id] = occupancy.Entry(e)
	}
	return r, true, nil
}

func writeRegister(dir string, r occupancy.Register) error {
	stored := storedRegister{Latest: map[string]storedEntry{}, Adopted: append([]string{}, r.Adopted...)}
	for id, e := range r.Latest {
		stored.Latest[id] = storedEntry(e)
	}
	data, err := json.MarshalIndent(stored, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the register of grants: %w", err)
	}
	if err := create(filepath.Join(dir, registerFile), append(data, '\n'), os.Rename); err != nil {
		return fmt.Errorf("write the register of grants: %w", err)
	}
	return nil
}
