package fakenvml_test

import (
	"fmt"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/shoenig/test/must"
	"pgregory.net/rapid"

	"github.com/nomad-governor/governor/device/fakenvml/control"
	"github.com/nomad-governor/governor/device/fakenvml/fixture"
)

// devices lists the MIG devices of a GPU as a careful reader does: every index
// up to the maximum, holes left out.
func devices(t *testing.T, gpu nvml.Device) []nvml.Device {
	t.Helper()
	count, ret := gpu.GetMaxMigDeviceCount()
	must.Eq(t, nvml.SUCCESS, ret)
	var found []nvml.Device
	for i := range count {
		device, ret := gpu.GetMigDeviceHandleByIndex(i)
		if ret == nvml.ERROR_NOT_FOUND {
			continue
		}
		must.Eq(t, nvml.SUCCESS, ret)
		must.Eq(t, i, ask(t, device.GetIndex))
		found = append(found, device)
	}
	return found
}

func TestEveryMIGDeviceOfEveryFixtureIsAsTheFixtureSays(t *testing.T) {
	for _, name := range fixtures(t) {
		t.Run(name, func(t *testing.T) {
			n := open(t, name)
			for i, g := range n.fixture.GPUs {
				gpu, ret := n.DeviceGetHandleByIndex(i)
				if ret == nvml.ERROR_GPU_IS_LOST {
					continue
				}
				must.Eq(t, nvml.SUCCESS, ret)
				found := devices(t, gpu)
				must.Len(t, len(g.Instances), found)
				for j, device := range found {
					want := g.Instances[j]
					must.Eq(t, n.fixture.MIGUUID("test", i, j), ask(t, device.GetUUID))
					must.Eq(t, int(want.GPUInstance), ask(t, device.GetGpuInstanceId))
					must.Eq(t, int(want.ComputeInstance), ask(t, device.GetComputeInstanceId))
					must.True(t, ask(t, device.IsMigDeviceHandle))
					must.Eq(t, gpu, ask(t, device.GetDeviceHandleFromMigDeviceHandle))
					byUUID, ret := n.DeviceGetHandleByUUID(n.fixture.MIGUUID("test", i, j))
					must.Eq(t, nvml.SUCCESS, ret)
					must.Eq(t, device, byUUID)
				}
			}
		})
	}
}

func TestMIGDeviceSaysItsSizeAndItsName(t *testing.T) {
	n := open(t, "mig-h100")
	first := devices(t, n.gpu(t, 0))
	attributes := ask(t, first[0].GetAttributes)
	must.Eq(t, nvml.DeviceAttributes{
		MultiprocessorCount: 60, SharedCopyEngineCount: 3, SharedDecoderCount: 3, SharedJpegCount: 3,
		GpuInstanceSliceCount: 3, ComputeInstanceSliceCount: 3, MemorySizeMB: 40448}, attributes)
	must.Eq(t, "NVIDIA H100 80GB HBM3 MIG 3g.40gb", ask(t, first[0].GetName))
	must.Eq(t, "NVIDIA H100 80GB HBM3 MIG 1g.10gb+me", ask(t, first[3].GetName))
	must.Eq(t, 1, ask(t, first[3].GetAttributes).SharedOfaCount)

	shared := devices(t, n.gpu(t, 5))
	must.Eq(t, "NVIDIA H100 80GB HBM3 MIG 1c.3g.40gb", ask(t, shared[0].GetName))
	must.Eq(t, "NVIDIA H100 80GB HBM3 MIG 2c.3g.40gb", ask(t, shared[1].GetName))
	must.Eq(t, 32, ask(t, shared[1].GetAttributes).MultiprocessorCount)
	must.Eq(t, 3, ask(t, shared[1].GetAttributes).GpuInstanceSliceCount)
}

func TestMIGDeviceHasMemoryOfItsOwn(t *testing.T) {
	n := open(t, "mig-h100")
	instance := control.Instance{GPUInstance: 9}
	must.NoError(t, n.MIGMemory(0, instance, 1000))
	device := devices(t, n.gpu(t, 0))[2]
	v2 := ask(t, device.GetMemoryInfo_v2)
	must.Eq(t, []uint64{9984 << 20, 1000 << 20, 8984 << 20}, []uint64{v2.Total, v2.Used, v2.Free})
	v1 := ask(t, device.GetMemoryInfo)
	must.Eq(t, []uint64{9984 << 20, 1000 << 20, 8984 << 20}, []uint64{v1.Total, v1.Used, v1.Free})
	must.Eq(t, 81559<<20, ask(t, n.gpu(t, 0).GetMemoryInfo).Total, must.Sprint("the GPU's memory is the whole"))
	_, ret := device.GetBAR1MemoryInfo()
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret, must.Sprint("not in the fixture"))
	must.NoError(t, n.MIGNumber(0, instance, "bar1_total", 16<<30))
	must.Eq(t, 16<<30, ask(t, device.GetBAR1MemoryInfo).Bar1Total)
}

// What a real MIG device handle does not answer, this one does not either.
func TestMIGDeviceSupportsLittleElse(t *testing.T) {
	n := open(t, "mig-h100")
	device := devices(t, n.gpu(t, 0))[0]
	for name, call := range map[string]func() nvml.Return{
		"serial":      func() nvml.Return { _, ret := device.GetSerial(); return ret },
		"minor":       func() nvml.Return { _, ret := device.GetMinorNumber(); return ret },
		"PCI":         func() nvml.Return { _, ret := device.GetPciInfo(); return ret },
		"utilisation": func() nvml.Return { _, ret := device.GetUtilizationRates(); return ret },
		"encoder":     func() nvml.Return { _, _, ret := device.GetEncoderUtilization(); return ret },
		"power":       func() nvml.Return { _, ret := device.GetPowerUsage(); return ret },
		"limit":       func() nvml.Return { _, ret := device.GetEnforcedPowerLimit(); return ret },
		"energy":      func() nvml.Return { _, ret := device.GetTotalEnergyConsumption(); return ret },
		"temperature": func() nvml.Return { _, ret := device.GetTemperature(nvml.TEMPERATURE_GPU); return ret },
		"clock":       func() nvml.Return { _, ret := device.GetClockInfo(nvml.CLOCK_SM); return ret },
		"throttling":  func() nvml.Return { _, ret := device.GetCurrentClocksEventReasons(); return ret },
		"ECC":         func() nvml.Return { _, _, ret := device.GetEccMode(); return ret },
		"MIG mode":    func() nvml.Return { _, _, ret := device.GetMigMode(); return ret },
		"MIG devices": func() nvml.Return { _, ret := device.GetMaxMigDeviceCount(); return ret },
		"NVLink":      func() nvml.Return { _, ret := device.GetNvLinkState(0); return ret },
		"ancestor":    func() nvml.Return { _, ret := device.GetTopologyCommonAncestor(n.gpu(t, 1)); return ret },
		"fields":      func() nvml.Return { return device.GetFieldValues([]nvml.FieldValue{{FieldId: 230}}) },
		"affinity":    func() nvml.Return { _, ret := device.GetMemoryAffinity(16, nvml.AFFINITY_SCOPE_NODE); return ret },
	} {
		must.Eq(t, nvml.ERROR_NOT_SUPPORTED, call(), must.Sprint(name))
	}
}

func TestGPUInMIGModeDoesNotSayHowBusyItIs(t *testing.T) {
	n := open(t, "mig-h100")
	calls := func(device nvml.Device) map[string]nvml.Return {
		rets := map[string]nvml.Return{}
		_, rets["utilisation"] = device.GetUtilizationRates()
		_, _, rets["encoder"] = device.GetEncoderUtilization()
		_, rets["cores"] = device.GetNumGpuCores()
		_, rets["compute mode"] = device.GetComputeMode()
		_, _, _, _, rets["remapped rows"] = device.GetRemappedRows()
		return rets
	}
	for name, ret := range calls(n.gpu(t, 0)) {
		must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret, must.Sprint(name))
	}
	for name, ret := range calls(n.gpu(t, 4)) {
		must.Eq(t, nvml.SUCCESS, ret, must.Sprint(name))
	}
	must.Eq(t, nvml.COMPUTEMODE_DEFAULT, ask(t, devices(t, n.gpu(t, 0))[0].GetComputeMode))
	must.Eq(t, 29, ask(t, func() (uint32, nvml.Return) { return n.gpu(t, 0).GetTemperature(nvml.TEMPERATURE_GPU) }))
	_, _, _, _, ret := n.gpu(t, 3).GetRemappedRows()
	must.Eq(t, nvml.SUCCESS, ret, must.Sprint("MIG mode without instances"))
}

func TestMIGModeIsCurrentAndPending(t *testing.T) {
	n := open(t, "mig-h100")
	modes := func(i int) string {
		current, pending, ret := n.gpu(t, i).GetMigMode()
		must.Eq(t, nvml.SUCCESS, ret)
		return fmt.Sprint(current, pending)
	}
	must.Eq(t, []string{"1 1", "0 0", "0 1", "1 0"}, []string{modes(3), modes(4), modes(6), modes(7)})
	must.Len(t, 0, devices(t, n.gpu(t, 3)))
	must.Eq(t, 7, ask(t, n.gpu(t, 3).GetMaxMigDeviceCount))
	must.Eq(t, 0, ask(t, n.gpu(t, 4).GetMaxMigDeviceCount))
	must.NoError(t, n.MIGMode(0, false, false))
	must.Eq(t, "0 0", modes(0))
	must.Len(t, 0, devices(t, n.gpu(t, 0)))
}

func TestGPUWithoutMIG(t *testing.T) {
	n := open(t, "dgx1v")
	_, _, ret := n.gpu(t, 0).GetMigMode()
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret)
	must.Eq(t, 0, ask(t, n.gpu(t, 0).GetMaxMigDeviceCount))
	_, ret = n.gpu(t, 0).GetMigDeviceHandleByIndex(0)
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret)
	_, ret = n.gpu(t, 0).GetAttributes()
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret, must.Sprint("it is for MIG devices alone"))
}

func TestMIGDevicesComeAndGo(t *testing.T) {
	n := open(t, "mig-h100")
	gpu := n.gpu(t, 0)
	before := devices(t, gpu)
	gone := before[1]
	must.NoError(t, n.DestroyMIG(0, control.Instance{GPUInstance: 3}))
	_, ret := gpu.GetMigDeviceHandleByIndex(1)
	must.Eq(t, nvml.ERROR_NOT_FOUND, ret, must.Sprint("the others keep their indices"))
	must.Len(t, 3, devices(t, gpu))
	_, ret = gone.GetUUID()
	must.Eq(t, nvml.ERROR_INVALID_ARGUMENT, ret)

	const uuid = "MIG-00000000-0000-4000-8000-000000000001"
	made := control.MIG{Instance: control.Instance{GPUInstance: 3}, UUID: uuid, Profile: "1g.20gb"}
	must.NoError(t, n.CreateMIG(0, made))
	must.Eq(t, uuid, ask(t, gone.GetUUID), must.Sprint("handles may be used again"))
	must.Eq(t, "NVIDIA H100 80GB HBM3 MIG 1g.20gb", ask(t, gone.GetName))
	must.Eq(t, 26, ask(t, gone.GetAttributes).MultiprocessorCount)
	must.Eq(t, 20096<<20, ask(t, gone.GetMemoryInfo).Total)
	must.NoError(t, n.DestroyMIG(0, made.Instance))
	must.Len(t, 3, devices(t, gpu))

	empty := n.gpu(t, 3)
	must.NoError(t, n.CreateMIG(3, control.MIG{
		Instance: control.Instance{GPUInstance: 1}, UUID: uuid, Profile: "4g.48gb", MemoryMiB: 49000, GPUSlices: 4, ComputeSlices: 2}))
	must.Eq(t, "NVIDIA H100 80GB HBM3 MIG 2c.4g.48gb", ask(t, devices(t, empty)[0].GetName))
	must.Eq(t, 49000<<20, ask(t, devices(t, empty)[0].GetMemoryInfo).Total)
	must.NoError(t, n.Reset())
	must.Len(t, 0, devices(t, empty))
	must.Len(t, 4, devices(t, gpu))
}

// Whatever is made and destroyed, the GPU lists what is there, once each, and
// no more than it holds.
func TestPropertyMIGDevicesAreWhatWasMadeAndNotDestroyed(t *testing.T) {
	n := open(t, "mig-h100")
	gpu := n.gpu(t, 3)
	there := map[control.Instance]string{}
	serial := 0
	rapid.Check(t, func(rt *rapid.T) {
		for range rapid.IntRange(1, 6).Draw(rt, "changes") {
			i := control.Instance{
				GPUInstance:     rapid.IntRange(0, 3).Draw(rt, "GPU instance"),
				ComputeInstance: rapid.IntRange(0, 1).Draw(rt, "compute instance")}
			if rapid.Bool().Draw(rt, "destroy") {
				must.NoError(rt, n.DestroyMIG(3, i))
				delete(there, i)
				continue
			}
			serial++
			there[i] = fmt.Sprintf("MIG-00000000-0000-4000-8000-%012d", serial)
			must.NoError(rt, n.CreateMIG(3, control.MIG{Instance: i, UUID: there[i], Profile: "1g.10gb"}))
		}
		listed := map[control.Instance]string{}
		for index := range fixture.MaxMIG {
			device, ret := gpu.GetMigDeviceHandleByIndex(index)
			if ret == nvml.ERROR_NOT_FOUND {
				continue
			}
			must.Eq(rt, nvml.SUCCESS, ret)
			gi, _ := device.GetGpuInstanceId()
			ci, _ := device.GetComputeInstanceId()
			listed[control.Instance{GPUInstance: gi, ComputeInstance: ci}], _ = device.GetUUID()
		}
		must.Eq(rt, there, listed)
	})
}

func TestLostGPUTakesItsMIGDevicesAlong(t *testing.T) {
	n := open(t, "mig-h100")
	device := devices(t, n.gpu(t, 0))[0]
	uuid := ask(t, device.GetUUID)
	must.NoError(t, n.SetGPULost(0))
	_, ret := device.GetMemoryInfo()
	must.Eq(t, nvml.ERROR_GPU_IS_LOST, ret)
	_, ret = n.DeviceGetHandleByUUID(uuid)
	must.Eq(t, nvml.ERROR_GPU_IS_LOST, ret)
	must.NoError(t, n.ClearLost(0))
	must.NoError(t, n.Fail("nvmlDeviceGetMemoryInfo", 0, control.CodeNotSupported))
	_, ret = device.GetMemoryInfo()
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret)
}

// The way from a MIG device to the profile of its GPU instance, as NVIDIA's own
// tools go it.
func TestInstancesAndProfilesOfAMIGDevice(t *testing.T) {
	n := open(t, "mig-h100")
	gpu := n.gpu(t, 1)
	device := devices(t, gpu)[2]
	gi, ret := gpu.GetGpuInstanceById(ask(t, device.GetGpuInstanceId))
	must.Eq(t, nvml.SUCCESS, ret)
	info := ask(t, gi.GetInfo)
	must.Eq(t, nvml.GpuInstanceInfo{Device: info.Device, Id: 6, ProfileId: 15, Placement: nvml.GpuInstancePlacement{Start: 6, Size: 2}}, info)
	must.Eq(t, gpu, info.Device)

	found := 0
	for number := range nvml.GPU_INSTANCE_PROFILE_COUNT {
		profile, ret := gpu.GetGpuInstanceProfileInfo(number)
		if ret == nvml.ERROR_NOT_SUPPORTED {
			continue
		}
		must.Eq(t, nvml.SUCCESS, ret)
		found++
		v2 := ask(t, gpu.GetGpuInstanceProfileInfoV(number).V2)
		v3 := ask(t, gpu.GetGpuInstanceProfileInfoV(number).V3)
		must.Eq(t, profile.MemorySizeMB, v2.MemorySizeMB)
		must.Eq(t, v2.Name, v3.Name)
		must.Eq(t, []uint32{profile.Id, profile.SliceCount, profile.MultiprocessorCount, profile.OfaCount},
			[]uint32{v3.Id, v3.SliceCount, v3.MultiprocessorCount, v3.OfaCount})
		if profile.Id != info.ProfileId {
			continue
		}
		must.Eq(t, nvml.GpuInstanceProfileInfo{Id: 15, SliceCount: 1, InstanceCount: 4, MultiprocessorCount: 26,
			CopyEngineCount: 1, DecoderCount: 1, JpegCount: 1, MemorySizeMB: 20096}, profile)
		must.Eq(t, "MIG 1g.20gb", text(v2.Name[:]))
		instances, ret := gpu.GetGpuInstances(&profile)
		must.Eq(t, nvml.SUCCESS, ret)
		must.Eq(t, []nvml.GpuInstance{gi}, instances)
	}
	must.Eq(t, 7, found)
	_, ret = gpu.GetGpuInstanceProfileInfo(nvml.GPU_INSTANCE_PROFILE_COUNT)
	must.Eq(t, nvml.ERROR_INVALID_ARGUMENT, ret)
	_, ret = gpu.GetGpuInstanceById(7)
	must.Eq(t, nvml.ERROR_NOT_FOUND, ret)
	_, ret = n.gpu(t, 4).GetGpuInstanceById(1)
	must.Eq(t, nvml.ERROR_NOT_SUPPORTED, ret)
}

func TestComputeInstancesOfAGPUInstance(t *testing.T) {
	n := open(t, "mig-h100")
	gpu := n.gpu(t, 5)
	gi, ret := gpu.GetGpuInstanceById(1)
	must.Eq(t, nvml.SUCCESS, ret)
	ci, ret := gi.GetComputeInstanceById(1)
	must.Eq(t, nvml.SUCCESS, ret)
	info := ask(t, ci.GetInfo)
	must.Eq(t, gpu, info.Device)
	must.Eq(t, gi, info.GpuInstance)
	must.Eq(t, []uint32{1, nvml.COMPUTE_INSTANCE_PROFILE_2_SLICE, 2}, []uint32{info.Id, info.ProfileId, info.Placement.Size})
	_, ret = gi.GetComputeInstanceById(2)
	must.Eq(t, nvml.ERROR_NOT_FOUND, ret)
	must.NoError(t, n.DestroyMIG(5, control.Instance{GPUInstance: 1, ComputeInstance: 1}))
	_, ret = ci.GetInfo()
	must.Eq(t, nvml.ERROR_INVALID_ARGUMENT, ret)
	must.NoError(t, n.DestroyMIG(5, control.Instance{GPUInstance: 1}))
	_, ret = gi.GetInfo()
	must.Eq(t, nvml.ERROR_INVALID_ARGUMENT, ret, must.Sprint("its last compute instance is gone"))
}
