package occupancy_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/occupancy"
)

const (
	container = "4f5e6d7c8b9a00112233445566778899aabbccddeeff00112233445566778899"
	inside    = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
)

func TestParseCgroup(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		want occupancy.Scope
	}{
		"exec on v2": {
			"0::/nomad.slice/share.slice/" + alloc + ".train.scope\n",
			occupancy.Scope{AllocID: alloc, Task: "train", Path: "/nomad.slice/share.slice/" + alloc + ".train.scope"}},
		"exec on v2 with reserved cores and another parent": {
			"0::/gpu.slice/nomad.slice/reserve.slice/" + alloc + ".a.b.scope\n",
			occupancy.Scope{AllocID: alloc, Task: "a.b", Path: "/gpu.slice/nomad.slice/reserve.slice/" + alloc + ".a.b.scope"}},
		"a task whose name ends in scope": {
			"0::/nomad.slice/share.slice/" + alloc + ".x.scope.scope\n",
			occupancy.Scope{AllocID: alloc, Task: "x.scope", Path: "/nomad.slice/share.slice/" + alloc + ".x.scope.scope"}},
		"a task whose name has spaces and colons": {
			"0::/nomad.slice/share.slice/" + alloc + ".a: b.scope\n",
			occupancy.Scope{AllocID: alloc, Task: "a: b", Path: "/nomad.slice/share.slice/" + alloc + ".a: b.scope"}},
		"exec on v1, where the cpuset does not name the task": {
			"12:cpuset:/nomad/share\n11:freezer:/nomad/" + alloc + ".train\n5:memory:/nomad/" + alloc + ".train\n" +
				"1:name=systemd:/system.slice/nomad.service\n0::/system.slice/nomad.service\n",
			occupancy.Scope{AllocID: alloc, Task: "train", Path: "/nomad/" + alloc + ".train", Controllers: "freezer"}},
		"on v1 a task's name may end in scope": {
			"11:freezer:/nomad/" + alloc + ".x.scope\n",
			occupancy.Scope{AllocID: alloc, Task: "x.scope", Path: "/nomad/" + alloc + ".x.scope", Controllers: "freezer"}},
		"a cgroup that the task made below its own": {
			"0::/nomad.slice/share.slice/" + alloc + ".train.scope/workers/3\n",
			occupancy.Scope{AllocID: alloc, Task: "train", Path: "/nomad.slice/share.slice/" + alloc + ".train.scope"}},
		"a cgroup below a task's own that is named after another": {
			"0::/nomad.slice/share.slice/" + alloc + ".train.scope/" + other + ".x.scope\n",
			occupancy.Scope{AllocID: alloc, Task: "train", Path: "/nomad.slice/share.slice/" + alloc + ".train.scope"}},
		"a cgroup in a container that is named after a task": {
			"0::/system.slice/docker-" + container + ".scope/" + other + ".x.scope\n",
			occupancy.Scope{Container: container, Path: "/system.slice/docker-" + container + ".scope"}},
		"a container of a task": {
			"0::/nomad.slice/share.slice/" + alloc + ".train.scope/docker/" + container + "\n",
			occupancy.Scope{AllocID: alloc, Task: "train", Path: "/nomad.slice/share.slice/" + alloc + ".train.scope"}},
		"a cgroup that was removed": {
			"0::/nomad.slice/share.slice/" + alloc + ".train.scope (deleted)\n",
			occupancy.Scope{AllocID: alloc, Task: "train", Path: "/nomad.slice/share.slice/" + alloc + ".train.scope"}},
		"docker, systemd driver, v2": {
			"0::/system.slice/docker-" + container + ".scope\n",
			occupancy.Scope{Container: container, Path: "/system.slice/docker-" + container + ".scope"}},
		"docker, cgroupfs driver, v2": {
			"0::/docker/" + container + "\n",
			occupancy.Scope{Container: container, Path: "/docker/" + container}},
		"docker, cgroupfs driver, v1": {
			"11:memory:/docker/" + container + "\n10:cpu,cpuacct:/docker/" + container + "\n1:name=systemd:/docker/" + container + "\n0::/\n",
			occupancy.Scope{Container: container, Path: "/docker/" + container, Controllers: "memory"}},
		"docker, systemd driver, v1": {
			"4:pids:/system.slice/docker-" + container + ".scope\n1:name=systemd:/system.slice/docker-" + container + ".scope\n",
			occupancy.Scope{Container: container, Path: "/system.slice/docker-" + container + ".scope", Controllers: "pids"}},
		"docker under a parent of the operator's": {
			"0::/batch.slice/" + container + "\n",
			occupancy.Scope{Container: container, Path: "/batch.slice/" + container}},
		"docker in docker: the outer one": {
			"0::/docker/" + container + "/docker/" + inside + "\n",
			occupancy.Scope{Container: container, Path: "/docker/" + container}},
		"podman, systemd driver": {
			"0::/machine.slice/libpod-" + container + ".scope/container\n",
			occupancy.Scope{Container: container, Path: "/machine.slice/libpod-" + container + ".scope"}},
		"podman, cgroupfs driver": {
			"0::/libpod_parent/libpod-" + container + "\n",
			occupancy.Scope{Container: container, Path: "/libpod_parent/libpod-" + container}},
		"podman without root": {
			"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + container + ".scope/container\n",
			occupancy.Scope{Container: container, Path: "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + container + ".scope"}},
		"podman's monitor is not in the container": {
			"0::/machine.slice/libpod-conmon-" + container + ".scope\n",
			occupancy.Scope{Path: "/machine.slice/libpod-conmon-" + container + ".scope"}},
		"nomad-driver-containerd": {
			"0::/nomad/my-task-" + alloc + "\n",
			occupancy.Scope{AllocID: alloc, Task: "my-task", Path: "/nomad/my-task-" + alloc}},
		"a unit that ends in a UUID": {
			"0::/system.slice/job-" + alloc + "\n",
			occupancy.Scope{Path: "/system.slice/job-" + alloc}},
		"a person's shell": {
			"0::/user.slice/user-1000.slice/session-3.scope\n",
			occupancy.Scope{Path: "/user.slice/user-1000.slice/session-3.scope"}},
		"a reader in another cgroup namespace": {
			"0::/../../nomad.slice/share.slice/" + alloc + ".train.scope\n",
			occupancy.Scope{AllocID: alloc, Task: "train", Path: "/../../nomad.slice/share.slice/" + alloc + ".train.scope"}},
		"an allocation without a task": {
			"0::/nomad.slice/" + alloc + "./" + alloc + "..scope\n",
			occupancy.Scope{Path: "/nomad.slice/" + alloc + "./" + alloc + "..scope"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, ok := occupancy.ParseCgroup(c.text)
			must.True(t, ok)
			must.Eq(t, c.want, got)
		})
	}
}

func TestParseCgroupOfNothing(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "\n", "0:/x\n", "x::/docker\n", "0::docker\n", "::\n"} {
		_, ok := occupancy.ParseCgroup(text)
		must.False(t, ok, must.Sprint(text))
	}
}

// scopeOnV2 is the oracle: the same rule as an expression, for one path of the
// unified hierarchy.
var scopeOnV2 = regexp.MustCompile(`^(?:/[^/]*?)*?/(?:([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.([^/]+?)(?:\.scope)?|(?:[^/]*-)?([0-9a-f]{64})(?:\.scope)?)(?:/|$)`)

func FuzzParseCgroup(f *testing.F) {
	f.Add("/nomad.slice/share.slice/" + alloc + ".train.scope/x")
	f.Add("/docker/" + container + "/" + alloc + ".x.scope")
	f.Add("/user.slice/x (deleted)")
	f.Add("/a/" + alloc + "..scope")
	f.Fuzz(func(t *testing.T, path string) {
		if len(path) > 4096 || !strings.HasPrefix(path, "/") || strings.Contains(path, "\n") {
			t.Skip()
		}
		got, ok := occupancy.ParseCgroup("0::" + path + "\n")
		must.True(t, ok)
		must.StrHasPrefix(t, got.Path, path)
		if strings.Contains(path, "conmon") || strings.Contains(path, "nomad/") || strings.Contains(path, "..scope") || strings.Contains(path, " (deleted)") || !valid(path) {
			return // rules that the oracle does not have
		}
		want := scopeOnV2.FindStringSubmatch(path)
		if want == nil {
			want = make([]string, 4)
		}
		must.Eq(t, []string{want[1], want[2], want[3]}, []string{got.AllocID, got.Task, got.Container}, must.Sprint(path))
	})
}

// valid keeps names with which expressions and bytes count differently out.
func valid(path string) bool {
	return strings.ToValidUTF8(path, "") == path && !strings.Contains(path, "//")
}

func TestParseEnviron(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		data string
		want occupancy.Environment
	}{
		"a task's": {
			"PATH=/bin\x00NOMAD_ALLOC_ID=" + alloc + "\x00NOMAD_TASK_NAME=train\x00GOVERNOR_GPU_GRANT_0123ABCD=x:y:z\x00",
			occupancy.Environment{AllocID: alloc, Task: "train", Grants: []string{"x:y:z"}}},
		"of two variables of a name the first": {
			"NOMAD_TASK_NAME=a\x00NOMAD_TASK_NAME=b\x00NOMAD_ALLOC_ID=" + alloc + "\x00NOMAD_ALLOC_ID=" + other + "\x00",
			occupancy.Environment{AllocID: alloc, Task: "a"}},
		"two grants, one without an ending": {
			"GOVERNOR_GPU_GRANT=1\x00GOVERNOR_GPU_GRANT_X=2=3\x00GOVERNOR_GPU_GRANTS=4\x00",
			occupancy.Environment{Grants: []string{"1", "2=3"}}},
		"an allocation that is none": {"NOMAD_ALLOC_ID=../../etc\x00", occupancy.Environment{}},
		"empty":                      {"", occupancy.Environment{}},
		"overwritten by a title":     {"python: worker 3\x00\x00\x00\x00ker\x00", occupancy.Environment{}},
		"cut off": {
			"NOMAD_ALLOC_ID=" + alloc + "\x00GOVERNOR_GPU_GR",
			occupancy.Environment{AllocID: alloc}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			must.Eq(t, c.want, occupancy.ParseEnviron(c.data))
		})
	}
	many := occupancy.ParseEnviron(strings.Repeat("GOVERNOR_GPU_GRANT=x\x00", 1000))
	must.Len(t, 64, many.Grants)
	must.Len(t, 64, many.Merge(many).Grants)
}

func FuzzParseEnviron(f *testing.F) {
	f.Add("A=1\x00NOMAD_ALLOC_ID=" + alloc + "\x00NOMAD_TASK_NAME=x\x00GOVERNOR_GPU_GRANT_1=g\x00")
	f.Add("NOMAD_ALLOC_ID=\x00NOMAD_ALLOC_ID=" + alloc)
	f.Fuzz(func(t *testing.T, data string) {
		got := occupancy.ParseEnviron(data)
		// The oracle: all entries by name.
		var allocs, tasks, grants []string
		for _, entry := range strings.Split(data, "\x00") {
			parts := strings.SplitN(entry, "=", 2)
			if len(parts) != 2 {
				continue
			}
			switch {
			case parts[0] == "NOMAD_ALLOC_ID" && regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`).MatchString(parts[1]):
				allocs = append(allocs, parts[1])
			case parts[0] == "NOMAD_TASK_NAME" && parts[1] != "" && len(parts[1]) <= 256:
				tasks = append(tasks, parts[1])
			case regexp.MustCompile(`^GOVERNOR_GPU_GRANT(_|$)`).MatchString(parts[0]):
				grants = append(grants, parts[1])
			}
		}
		must.Eq(t, first(allocs), got.AllocID)
		must.Eq(t, first(tasks), got.Task)
		must.Eq(t, grants[:min(64, len(grants))], got.Grants)
	})
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

func TestParseStat(t *testing.T) {
	t.Parallel()
	got, err := occupancy.ParseStat("4711 (a) b (x) S 17 4711 4711 0 -1 4194560 1 0 0 0 12 4 0 0 20 0 5 0 987654 1 2 3\n")
	must.NoError(t, err)
	must.Eq(t, occupancy.Stat{Command: "a) b (x", Parent: 17, Start: 987654}, got)
	got, err = occupancy.ParseStat("1 (\x1b[31m) Z 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 9")
	must.NoError(t, err)
	must.Eq(t, occupancy.Stat{Command: "?[31m", Parent: 17, Start: 9, Ended: true}, got)
	for text, want := range map[string]string{
		"":          "no command",
		"1 )(":      "no command",
		"1 (x) S 1": "2 fields after the command",
		"1 (x) S y 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 9":  "parse the parent",
		"1 (x) S 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 -9": "parse the start",
	} {
		_, err := occupancy.ParseStat(text)
		must.ErrorContains(t, err, want)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("cat", int64(1), uint64(2), "1 2 3")
	f.Add(") S 9 (", int64(0), uint64(1<<63), "")
	f.Fuzz(func(t *testing.T, command string, parent int64, start uint64, rest string) {
		_, _ = occupancy.ParseStat(command)
		if strings.Contains(rest, ")") {
			t.Skip()
		}
		text := fmt.Sprintf("7 (%s) R %d%s %d %s", command, parent, strings.Repeat(" 0", 17), start, rest)
		got, err := occupancy.ParseStat(text)
		must.NoError(t, err)
		must.Eq(t, len(command), len(got.Command))
		must.Eq(t, [2]any{parent, start}, [2]any{got.Parent, got.Start})
	})
}

func TestParseUIDs(t *testing.T) {
	t.Parallel()
	uid, effective, err := occupancy.ParseUIDs("Name:\tx\nUid:\t1000\t0\t0\t0\nGid:\t5\n")
	must.NoError(t, err)
	must.Eq(t, [2]int64{1000, 0}, [2]int64{uid, effective})
	for text, want := range map[string]string{"": "no line of users", "Uid:\t1\n": "no line of users", "Uid:\tx\t1\n": "parse the user", "Uid:\t1\tx\n": "parse the user"} {
		_, _, err := occupancy.ParseUIDs(text)
		must.ErrorContains(t, err, want)
	}
}

func FuzzParseUIDs(f *testing.F) {
	f.Add("Name:\tx\nUid:\t1000\t0\t0\t0\n")
	f.Fuzz(func(t *testing.T, text string) {
		uid, effective, err := occupancy.ParseUIDs(text)
		if err == nil && !strings.Contains(text, "Uid:") {
			t.Fatalf("%d %d out of %q", uid, effective, text)
		}
	})
}

func TestParseMounts(t *testing.T) {
	t.Parallel()
	line := func(root, point string) string {
		return "612 590 8:2 " + root + " " + point + " rw,relatime - ext4 /dev/sda2 rw\n"
	}
	dir := "/opt/nomad/data/alloc/" + alloc
	for name, c := range map[string]struct {
		text string
		want occupancy.Mounts
	}{
		"a container of Nomad's": {
			line("/", "/") + line(dir+"/alloc", "/alloc") + line(dir+"/train/local", "/local") + line("/", "/secrets"),
			occupancy.Mounts{AllocID: alloc, Task: "train"}},
		"a file system of its own for the allocations": {
			line("/"+alloc+"/train/local", "/local"), occupancy.Mounts{AllocID: alloc, Task: "train"}},
		"only the allocation's directory": {
			line(dir+"/alloc", "/alloc"), occupancy.Mounts{AllocID: alloc}},
		"a task's name with a space": {
			line(dir+`/my\040task/local`, "/local"), occupancy.Mounts{AllocID: alloc, Task: "my task"}},
		"another place for the task's directory": {
			line(dir+"/train/local", "/data"), occupancy.Mounts{AllocID: alloc, Task: "train"}},
		"the host's mounts, seen in a container": {
			line(dir+"/alloc", "/host"+dir+"/train/alloc"), occupancy.Mounts{Doubtful: true}},
		"the host's mounts beside its own": {
			line(dir+"/alloc", "/alloc") + line(strings.ReplaceAll(dir, alloc, other)+"/alloc", "/host/"+other+"/x/alloc") + line(dir+"/train/local", "/local"),
			occupancy.Mounts{AllocID: alloc, Task: "train", Doubtful: true}},
		"a directory in the task's": {
			line(dir+"/train/local/x", "/x"), occupancy.Mounts{}},
		"no container of Nomad's": {line("/", "/") + line("/srv/alloc", "/alloc"), occupancy.Mounts{}},
		"no mounts":               {"\n1 2\n", occupancy.Mounts{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			must.Eq(t, c.want, occupancy.ParseMounts(c.text))
		})
	}
}

func FuzzParseMounts(f *testing.F) {
	f.Add("train", "/local")
	f.Add(`a\b c`, "/x y")
	f.Fuzz(func(t *testing.T, task, point string) {
		_ = occupancy.ParseMounts(task)
		if task == "" || point == "" || strings.ContainsAny(task, "/") || strings.Contains(point, alloc) {
			t.Skip()
		}
		// The oracle: what the kernel's escaping of a name gives is read as
		// that name (seq_path escapes these four).
		escape := strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`)
		got := occupancy.ParseMounts("1 2 8:1 /a/" + alloc + "/" + escape.Replace(task) + "/local " + escape.Replace(point) + " rw - ext4 x rw\n")
		must.Eq(t, occupancy.Mounts{AllocID: alloc, Task: task}, got)
	})
}
