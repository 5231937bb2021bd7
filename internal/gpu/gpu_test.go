package gpu_test

import (
	"testing"

	"github.com/nomad-governor/governor/internal/gpu"
	"github.com/shoenig/test/must"
)

func TestMatchesNameFollowsNomad(t *testing.T) {
	t.Parallel()
	for asked, want := range map[string]bool{
		"gpu":                         true,
		"nvidia/gpu":                  true,
		"nvidia/gpu/Tesla V100":       true,
		"nvidia/gpu/Tesla V100/extra": false, // the model is everything after the second slash
		"nvidia/gpu/tesla v100":       false,
		"amd/gpu":                     false,
		"nvidia/mig":                  false,
		"fpga":                        false,
		"nvidia/":                     true, // an empty part stands for any
		"/":                           true,
		"//Tesla V100":                true,
		"//A100":                      false,
		"/gpu/":                       true,
		"":                            false,
	} {
		must.Eq(t, want, gpu.MatchesName(asked, "nvidia", "gpu", "Tesla V100"), must.Sprint(asked))
	}
}

func TestSplitNameInvertsDeviceName(t *testing.T) {
	t.Parallel()
	vendor, typ, model, ok := gpu.SplitName(gpu.DeviceName("nvidia", "gpu", "A/B"))
	must.True(t, ok)
	must.Eq(t, [3]string{"nvidia", "gpu", "A/B"}, [3]string{vendor, typ, model})
	for _, bad := range []string{"", "gpu", "nvidia/gpu", "nvidia/gpu/", "/gpu/x", "nvidia//x"} {
		_, _, _, ok := gpu.SplitName(bad)
		must.False(t, ok, must.Sprint(bad))
	}
}

func TestAskedForIsTrueWheneverAGPUCouldServe(t *testing.T) {
	t.Parallel()
	for asked, want := range map[string]bool{
		"gpu": true, "mig": true, "gpu-share": true, "nvidia/gpu-share": true, "nvidia/gpu": true, "nvidia/mig/1g.10gb": true, "nvidia/": true, "/": true, "//A100": true,
		"fpga": false, "intel/fpga": false, "x/fpga/gpu": false, "": false, "gpu/": true, // "gpu/" is vendor gpu, any type
	} {
		must.Eq(t, want, gpu.AskedFor(asked), must.Sprint(asked))
	}
}
