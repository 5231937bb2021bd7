package plugin

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-governor/governor/device/inventory"
	"github.com/nomad-governor/governor/hcl/deviceconfig"
)

// FuzzLoadIdentity checks that a file of group identities is understood wholly or
// refused: one that is accepted names a grouping that there is, says the same
// after it was written again, and no GPU in it gets another group.
func FuzzLoadIdentity(f *testing.F) {
	for _, seed := range []string{
		`{"grouping": "nvlink", "islands": {"GPU-1": "nvlink0", "GPU-2": ""}, "names": {"GPU-1": "Card"}}`,
		`{"grouping": "", "islands": null, "names": null}`,
		`{"grouping": "off", "islands": {"GPU-1": ""}}`,
		`{"grouping": "rack", "islands": {"GPU-1": "rack7"}}`,
		`{"grouping": "nvlink"} {}`, `{"Islands": {"GPU-1": "a"}, "islands": {"GPU-1": "b"}}`, `{"racks": {}}`, `null`, `[]`, "{", "",
	} {
		f.Add([]byte(seed))
	}
	kept := []inventory.Grouping{inventory.GroupOff, inventory.GroupNVLink, inventory.GroupNUMA, inventory.GroupPCIe}
	node := inventory.Observe(inventory.Inventory{}, inventory.Readings{GPUs: []inventory.GPU{
		{UUID: "GPU-1", Name: "Card", PCIBusID: bus(0)}, {UUID: "GPU-2", Name: "Card", PCIBusID: bus(1)}, {UUID: "GPU-3", Name: "Other", PCIBusID: bus(2)}}})
	f.Fuzz(func(t *testing.T, file []byte) {
		dir := t.TempDir()
		must.NoError(t, os.WriteFile(IdentityPath(dir), file, 0o600))
		id, err := LoadIdentity(dir)
		if err != nil {
			must.ErrorContains(t, err, "drain the node and remove the file")
			must.Eq(t, inventory.Identity{}, id)
			return
		}
		must.True(t, id.Grouping == "" && len(id.Islands) == 0 || slices.Contains(kept, id.Grouping), must.Sprint(id.Grouping))
		must.NoError(t, saveIdentity(dir, id))
		again, err := LoadIdentity(dir)
		must.NoError(t, err)
		must.Eq(t, id, again)
		for _, wanted := range append(kept, inventory.GroupAuto) {
			next, _ := id.Adopt(node, wanted)
			for uuid, island := range id.Islands {
				must.Eq(t, island, next.Islands[uuid])
			}
			for uuid, name := range id.Names {
				must.Eq(t, name, next.Names[uuid])
			}
		}
	})
}

// FuzzConfig checks that whatever Nomad sends as the plugin's block is settings
// within their bounds or is refused.
func FuzzConfig(f *testing.F) {
	block := deviceconfig.Default()
	f.Add([]byte{})
	f.Add(encode(f, block))
	block.Sharing = []deviceconfig.Sharing{{GPUs: []string{"*"}, Strategy: "mps", Replicas: 4}}
	block.Health = &deviceconfig.Health{Unhealthy: []string{"xid_94"}, CleanReadings: 3}
	block.IMEXChannels, block.IgnoredGPUIDs = []int{0}, []string{id(0)}
	f.Add(encode(f, block))
	f.Add(encode(f, map[string]any{"enabled": false, "fingerprint_period": "1m", "other": []int{1}}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := decodeConfig(raw)
		if err != nil {
			return
		}
		must.Between(t, time.Second, s.FingerprintPeriod, time.Hour)
		must.Between(t, 100*time.Millisecond, s.HealthPeriod, time.Hour)
		must.NotEq(t, "", s.StateDir)
		for _, rule := range s.Layout.Sharing {
			must.Between(t, 2, rule.Replicas, inventory.ReplicasMost)
			must.SliceNotEmpty(t, rule.GPUs)
		}
	})
}
