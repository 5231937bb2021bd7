package cluster

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

func TestFreeMajors(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		devices string
		want    []uint32
	}{
		"without drivers the wanted ones": {"Character devices:\n  1 mem\n\nBlock devices:\n  7 loop\n", []uint32{195, 500}},
		"a block device takes nothing":    {"Character devices:\n\nBlock devices:\n195 some\n", []uint32{195, 500}},
		"a driver's own is left to it":    {"Character devices:\n195 nvidia\n195 nvidiactl\n384 x\n500 nvidia-uvm\n", []uint32{385, 386}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := freeMajors(c.devices, 195, 500)
			must.NoError(t, err)
			must.Eq(t, c.want, got)
		})
	}
	var all strings.Builder
	for major := range dynamicLast + 1 {
		all.WriteString(strconv.Itoa(major) + " driver\n")
	}
	_, err := freeMajors(all.String(), 195)
	must.ErrorContains(t, err, "every major number")
}

func TestDeviceNodesExistAndNoDriverAnswers(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	must.NoError(t, MakeDeviceNodes(root, 2, 1, 30))
	for _, name := range []string{"nvidia0", "nvidia1", "nvidiactl", "nvidia-modeset", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-caps/nvidia-cap1", "nvidia-caps/nvidia-cap30"} {
		path := filepath.Join(root, "dev", name)
		info, err := os.Stat(path)
		must.NoError(t, err)
		must.Eq(t, os.ModeDevice|os.ModeCharDevice|0o666, info.Mode(), must.Sprint(name))
		_, err = os.Open(path)
		must.True(t, errors.Is(err, unix.ENXIO), must.Sprint(err))
	}
}
