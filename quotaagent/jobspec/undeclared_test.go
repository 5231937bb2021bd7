package jobspec

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"
)

// TestUndeclared: the ways by which a task reaches GPUs that it was not given, in
// the spellings of HCL and JSON, and what looks like one and is none. %s in want
// stands for nothing found.
func TestUndeclared(t *testing.T) {
	t.Parallel()
	const device = `"Resources":{"Devices":[{"Name":"nvidia/gpu"}]}`
	cases := map[string]struct{ task, want string }{
		"plain docker":                  {`"Driver":"docker","Config":{"image":"nginx","ports":["http"],"volumes":["/data:/data","local/x:/x"]}`, ""},
		"privileged":                    {`"Driver":"docker","Config":{"privileged":true}`, `docker option privileged = true`},
		"privileged as text":            {`"Driver":"docker","Config":{"privileged":"true"}`, `docker option privileged = true`},
		"privileged as number":          {`"Driver":"docker","Config":{"privileged":1}`, `docker option privileged = 1`},
		"privileged by a variable":      {`"Driver":"docker","Config":{"privileged":"${meta.p}"}`, `docker option privileged = ${meta.p}`},
		"privileged by its own meta":    {`"Driver":"docker","Meta":{"p":"true"},"Config":{"privileged":"${NOMAD_META_p}"}`, `docker option privileged = true`},
		"not privileged by its meta":    {`"Driver":"docker","Meta":{"p":"false"},"Config":{"privileged":"${NOMAD_META_P}"}`, ""},
		"not privileged":                {`"Driver":"docker","Config":{"privileged":false}`, ""},
		"not privileged as text":        {`"Driver":"docker","Config":{"privileged":"false"}`, ""},
		"privileged with a device":      {`"Driver":"docker","Config":{"privileged":true},` + device, `docker option privileged = true`},
		"privileged podman":             {`"Driver":"podman","Config":{"privileged":true}`, `podman option privileged = true`},
		"nvidia runtime":                {`"Driver":"docker","Config":{"runtime":"nvidia"}`, `docker option runtime has "nvidia"`},
		"nvidia runtime by env":         {`"Driver":"docker","Env":{"R":"nvidia"},"Config":{"runtime":"${R}"}`, `docker option runtime has "nvidia"`},
		"nvidia runtime by env of env":  {`"Driver":"docker","Env":{"R":"${Q}","Q":"nvidia-cdi"},"Config":{"runtime":"${env.R}"}`, `docker option runtime has "nvidia-cdi"`},
		"nvidia runtime with a device":  {`"Driver":"docker","Config":{"runtime":"nvidia"},` + device, ""},
		"nvidia runtime shows nothing":  {`"Driver":"docker","Config":{"runtime":"nvidia"},"Env":{"NVIDIA_VISIBLE_DEVICES":"void"}`, ""},
		"another runtime":               {`"Driver":"docker","Config":{"runtime":"runsc"}`, ""},
		"gpus option":                   {`"Driver":"docker","Config":{"gpus":"all"}`, `docker option gpus = "all"`},
		"gpus option off":               {`"Driver":"docker","Config":{"gpus":0}`, ""},
		"device requests":               {`"Driver":"docker","Config":{"device_requests":[{"driver":"nvidia","count":-1}]}`, `docker option device_requests = "-1"`},
		"devices as HCL gives them":     {`"Driver":"docker","Config":{"devices":[{"host_path":"/dev/nvidia0","container_path":"/dev/x"}]}`, `docker option devices has "/dev/nvidia0"`},
		"devices as HCL1 gives them":    {`"Driver":"docker","Config":{"devices":[[{"host_path":"/dev/nvidia0"}]]}`, `docker option devices has "/dev/nvidia0"`},
		"devices as one object":         {`"Driver":"docker","Config":{"devices":{"host_path":"/dev/nvidiactl"}}`, `docker option devices has "/dev/nvidiactl"`},
		"devices by detours":            {`"Driver":"docker","Config":{"devices":[{"host_path":"//dev/../dev/./nvidia-uvm"}]}`, `docker option devices has "//dev/../dev/./nvidia-uvm"`},
		"devices by number":             {`"Driver":"docker","Config":{"devices":[{"host_path":"/dev/char/195:0"}]}`, `docker option devices has "/dev/char/195:0"`},
		"other devices":                 {`"Driver":"docker","Config":{"devices":[{"host_path":"/dev/fuse"},{"host_path":"/dev/dri"}]}`, ""},
		"podman devices":                {`"Driver":"podman","Config":{"devices":["/dev/nvidia0:/dev/nvidia0:rw"]}`, `podman option devices has "/dev/nvidia0:/dev/nvidia0:rw"`},
		"podman CDI":                    {`"Driver":"podman","Config":{"devices":["nvidia.com/gpu=all"]}`, `podman option devices has "nvidia.com/gpu=all"`},
		"podman CDI with a device":      {`"Driver":"podman","Config":{"devices":["nvidia.com/gpu=all"]},` + device, `podman option devices has "nvidia.com/gpu=all"`},
		"volume of /dev":                {`"Driver":"docker","Config":{"volumes":["/dev:/host/dev:ro"]}`, `docker option volumes has "/dev:/host/dev:ro"`},
		"volume of /dev/":               {`"Driver":"docker","Config":{"volumes":["/dev/:/d"]}`, `docker option volumes has "/dev/:/d"`},
		"volume by the job's own env":   {`"Driver":"docker","Env":{"D":"/dev"},"Config":{"volumes":["${D}:/d"]}`, `docker option volumes has "/dev:/d"`},
		"volume of a socket":            {`"Driver":"docker","Config":{"volumes":["/var/run/nvidia-persistenced/socket:/s"]}`, `docker option volumes has "/var/run/nvidia-persistenced/socket:/s"`},
		"volume of shared memory":       {`"Driver":"docker","Config":{"volumes":["/dev/shm:/dev/shm"]}`, ""},
		"volume of the root":            {`"Driver":"docker","Config":{"volumes":["/:/host:ro"]}`, ""},
		"volume of Nomad's directories": {`"Driver":"docker","Config":{"volumes":["${NOMAD_ALLOC_DIR}/data:/data"]}`, ""},
		"mount":                         {`"Driver":"docker","Config":{"mount":[{"type":"bind","source":"/dev","target":"/d"}]}`, `docker option mount has "/dev"`},
		"mounts as HCL1 gives them":     {`"Driver":"docker","Config":{"mounts":[[{"type":"bind","source":"/dev/nvidia0","target":"/d"}]]}`, `docker option mounts has "/dev/nvidia0"`},
		"mount of a local volume": {`"Driver":"docker","Config":{"mounts":[{"type":"volume","target":"/d","volume_options":[{"driver_config":[{"options":[{"device":"/dev","o":"bind"}]}]}]}]}`,
			`docker option mounts has "/dev"`},
		"tmpfs mount":                     {`"Driver":"docker","Config":{"mounts":[{"type":"tmpfs","target":"/dev/shm"}]}`, ""},
		"exec":                            {`"Driver":"exec","Config":{"command":"nvidia-smi"}`, ""},
		"exec with sys_admin":             {`"Driver":"exec","Config":{"cap_add":["net_raw","SYS_ADMIN"]}`, `exec option cap_add has "SYS_ADMIN"`},
		"exec with every capability":      {`"Driver":"java","Config":{"cap_add":["all"]}`, `java option cap_add has "all"`},
		"docker with sys_admin":           {`"Driver":"docker","Config":{"cap_add":["SYS_ADMIN"]}`, ""},
		"raw_exec":                        {`"Driver":"raw_exec","Config":{"command":"/usr/bin/rsync","args":["-a","/data","/dev/null"]}`, ""},
		"raw_exec of NVIDIA's tools":      {`"Driver":"raw_exec","Config":{"command":"/usr/bin/nvidia-smi"}`, `raw_exec option command has "/usr/bin/nvidia-smi"`},
		"raw_exec of docker":              {`"Driver":"raw_exec","Config":{"command":"docker","args":["run","--gpus","all","x"]}`, `raw_exec option args has "--gpus"`},
		"raw_exec of a shell":             {`"Driver":"raw_exec","Config":{"command":"sh","args":["-c","CUDA_VISIBLE_DEVICES=0 ./train"]}`, `raw_exec option args has "CUDA_VISIBLE_DEVICES=0 ./train"`},
		"raw_exec with a device":          {`"Driver":"raw_exec","Config":{"command":"nvidia-smi"},` + device, ""},
		"raw_exec with NVIDIA's env":      {`"Driver":"raw_exec","Env":{"NVIDIA_DRIVER_CAPABILITIES":"all"}`, `env NVIDIA_DRIVER_CAPABILITIES = "all"`},
		"docker with NVIDIA's env":        {`"Driver":"docker","Env":{"NVIDIA_DRIVER_CAPABILITIES":"all"}`, ""},
		"qemu with a passed-through card": {`"Driver":"qemu","Config":{"args":["-device","vfio-pci,host=01:00.0"]}`, `qemu option args has "vfio-pci,host=01:00.0"`},
		"env":                             {`"Driver":"docker","Env":{"NVIDIA_VISIBLE_DEVICES":"all"}`, `env NVIDIA_VISIBLE_DEVICES = "all"`},
		"env with a device":               {`"Driver":"docker","Env":{"NVIDIA_VISIBLE_DEVICES":"0"},` + device, `env NVIDIA_VISIBLE_DEVICES = "0"`},
		"CUDA's env":                      {`"Driver":"raw_exec","Env":{"CUDA_VISIBLE_DEVICES":"1"}`, `env CUDA_VISIBLE_DEVICES = "1"`},
		"CUDA's env within a container":   {`"Driver":"docker","Env":{"CUDA_VISIBLE_DEVICES":"0,1"},` + device, ""},
		"CUDA's env names a device":       {`"Driver":"docker","Env":{"CUDA_VISIBLE_DEVICES":"GPU-1"},` + device, `env CUDA_VISIBLE_DEVICES = "GPU-1"`},
		"CUDA's env outside a container":  {`"Driver":"exec","Env":{"CUDA_VISIBLE_DEVICES":"0"},` + device, `env CUDA_VISIBLE_DEVICES = "0"`},
		"env shows nothing":               {`"Driver":"docker","Env":{"NVIDIA_VISIBLE_DEVICES":"none","CUDA_VISIBLE_DEVICES":"-1"}`, ""},
		"template":                        {`"Driver":"docker","Templates":[{"Envvars":true,"EmbeddedTmpl":"A=1\nexport NVIDIA_VISIBLE_DEVICES=all\n"}],` + device, `a template with env = true sets NVIDIA_VISIBLE_DEVICES`},
		"template of a value":             {`"Driver":"docker","Templates":[{"Envvars":true,"EmbeddedTmpl":"CUDA_VISIBLE_DEVICES={{ key \"x\" }}"}]`, `a template with env = true sets CUDA_VISIBLE_DEVICES`},
		"template shows nothing":          {`"Driver":"docker","Templates":[{"Envvars":true,"EmbeddedTmpl":"NVIDIA_VISIBLE_DEVICES=\"void\""}]`, ""},
		"template that is a file":         {`"Driver":"docker","Templates":[{"EmbeddedTmpl":"NVIDIA_VISIBLE_DEVICES=all"}]`, ""},
		"host volume by its mount":        {`"Driver":"docker","VolumeMounts":[{"Volume":"v","Destination":"/dev"}]`, `host volume "data" at "/dev"`},
		"host volume by its name":         {`"Driver":"docker","VolumeMounts":[{"Volume":"n","Destination":"/x"}]`, `host volume "nvidia-dev" at "/x"`},
		"host volume":                     {`"Driver":"docker","VolumeMounts":[{"Volume":"v","Destination":"/data"}]`, ""},
		"CSI volume":                      {`"Driver":"docker","VolumeMounts":[{"Volume":"c","Destination":"/data"}]`, ""},
		"no config at all":                {`"Driver":"docker"`, ""},
		"a config that is null":           {`"Driver":"docker","Config":{"volumes":null,"privileged":null,"devices":[null]}`, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ask := extract(t, `{"ID":"a","TaskGroups":[{"Name":"g","Volumes":{"v":{"Type":"host","Source":"data"},"n":{"Type":"host","Source":"nvidia-dev"},
				"c":{"Type":"csi","Source":"nvidia-models"}},"Tasks":[{"Name":"t",`+tc.task+`}]}]}`)
			var got []string
			for _, u := range ask.Undeclared {
				must.EqOp(t, "g", u.Group)
				must.EqOp(t, "t", u.Task)
				must.NotEq(t, "", u.Fix)
				got = append(got, u.What)
			}
			must.EqOp(t, tc.want, strings.Join(got, "; "))
		})
	}
}

func TestUndeclared_looksAtSidecarsAndNotAtStoppedJobs(t *testing.T) {
	t.Parallel()
	job := func(stop bool) string {
		return fmt.Sprintf(`{"ID":"a","Stop":%t,"TaskGroups":[{"Name":"g","Services":[{"Name":"web","Connect":{"SidecarService":{},
			"SidecarTask":{"Config":{"privileged":true}}}}]}]}`, stop)
	}
	must.Eq(t, []Undeclared{{Group: "g", Task: "connect-proxy-web", What: "docker option privileged = true", Fix: fixPower}}, extract(t, job(false)).Undeclared)
	must.Nil(t, extract(t, job(true)).Undeclared)
}

// FuzzExtract: no job that Nomad's library can read makes Extract panic, and what
// it says is within bounds.
func FuzzExtract(f *testing.F) {
	f.Add([]byte(`{"ID":"a","TaskGroups":[{"Name":"g","Tasks":[{"Name":"t","Driver":"docker","Env":{"A":"${B}","B":"${A}${A}"},"Config":{"volumes":["${A}"],"devices":[[{"host_path":"/dev/nvidia0"}]]},"Resources":{"Devices":[{"Name":"gpu"}]}}]}]}`))
	f.Add([]byte(`{"ID":"a","Type":"sysbatch","Periodic":{},"TaskGroups":[{"Count":-1,"Services":[{"Connect":{"SidecarTask":{"Config":{"privileged":"x"}}}}]}]}`))
	f.Add([]byte(`{"ID":"a","TaskGroups":[{"Tasks":[{"Templates":[null],"VolumeMounts":[null],"Resources":{"Devices":[{"Constraints":[null]}]}}]}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var job api.Job
		if json.Unmarshal(raw, &job) != nil || job.ID == nil {
			return
		}
		ask, err := Extract(&job, Defaults{})
		if err != nil {
			return
		}
		must.GreaterEq(t, 0, ask.GPUs())
		facts := ask.Facts()
		must.EqOp(t, ask.GPUs(), facts.GPUs)
		for _, u := range ask.Undeclared {
			must.Less(t, 4096, len(u.What))
		}
	})
}
