package inject

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/inventory"
)

func TestSpec(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	h := r.discover(CDI, func(o *Options) { o.IMEXChannels = []int{0} })
	lost := whole(3) // has no node
	unknown := whole(4)
	unknown.Minor = inventory.Maybe[int64]{}
	unnamed := instance()
	unnamed.UUID = "MIG-GPU-1/1/0"
	spec, err := h.Spec([]Device{timeShare(1), instance(), lost, unknown, unnamed, whole(0), timeShare(1)})
	must.NoError(t, err)
	golden(t, "spec", r.shown(string(spec)))
}

func TestSpecOfNothing(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		edit    func(root)
		devices []Device
	}{
		"no devices":                    {func(root) {}, nil},
		"no device that works":          {func(root) {}, []Device{whole(5)}},
		"no node that all devices need": {func(r root) { r.remove("dev/nvidiactl") }, []Device{whole(0)}},
		"no libraries":                  {func(r root) { r.remove("usr/lib64") }, []Device{whole(0)}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRoot(t)
			c.edit(r)
			spec, err := r.discover(CDI).Spec(c.devices)
			must.NoError(t, err)
			must.Nil(t, spec)
		})
	}
}

func TestSpecWithALibraryDirectoryOfTheLinkerSetsNoVariable(t *testing.T) {
	t.Parallel()
	h := newRoot(t).discover(CDI, func(o *Options) { o.LibraryDir = "/usr/lib64" })
	spec, err := h.Spec([]Device{whole(0)})
	must.NoError(t, err)
	must.StrNotContains(t, string(spec), EnvLibraryPath)
}

func TestWriteSpec(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	h := r.discover(CDI)
	must.Eq(t, filepath.Join(r.dir, "var/run/cdi/governor.nomad-gpu.json"), h.SpecPath())

	changed, err := h.WriteSpec(nil)
	must.NoError(t, err)
	must.False(t, changed, must.Sprint("there was nothing to remove"))

	changed, err = h.WriteSpec([]Device{whole(0)})
	must.NoError(t, err)
	must.True(t, changed)
	info, err := os.Stat(h.SpecPath())
	must.NoError(t, err)
	must.Eq(t, 0o644, info.Mode())
	entries, err := os.ReadDir(filepath.Dir(h.SpecPath()))
	must.NoError(t, err)
	must.Len(t, 1, entries, must.Sprint("no part of a file is left"))

	past := time.Unix(1, 0)
	must.NoError(t, os.Chtimes(h.SpecPath(), past, past))
	changed, err = h.WriteSpec([]Device{whole(0)})
	must.NoError(t, err)
	must.False(t, changed)
	info, err = os.Stat(h.SpecPath())
	must.NoError(t, err)
	must.True(t, info.ModTime().Equal(past), must.Sprint("the same content must not wake who watches the file"))

	changed, err = h.WriteSpec([]Device{whole(0), whole(1)})
	must.NoError(t, err)
	must.True(t, changed)
	spec, err := h.Spec([]Device{whole(0), whole(1)})
	must.NoError(t, err)
	text, err := os.ReadFile(h.SpecPath())
	must.NoError(t, err)
	must.Eq(t, string(spec), string(text))

	changed, err = h.WriteSpec(nil)
	must.NoError(t, err)
	must.True(t, changed)
	must.FileNotExists(t, h.SpecPath())
}

func TestWriteSpecSaysWhatFailed(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	r.write("var/run/cdi", "a file where the directory should be")
	_, err := r.discover(CDI).WriteSpec([]Device{whole(0)})
	must.Error(t, err)
	must.StrContains(t, err.Error(), "write the CDI specification: ")
	must.StrContains(t, err.Error(), "var/run/cdi")
}
