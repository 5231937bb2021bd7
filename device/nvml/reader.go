package nvml

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/dl"
	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/nomad-governor/governor/device/inventory"
)

// reopenAfter is how often the library is opened again while a GPU does not
// answer: a session that began before a GPU reset may never see it come back.
const reopenAfter = 30 * time.Second

// coreSymbols must be there before anything is called. Drivers since R418
// have them all.
var coreSymbols = []string{
	"nvmlInit_v2", "nvmlShutdown", "nvmlErrorString", "nvmlDeviceGetCount_v2",
	"nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetUUID", "nvmlDeviceGetName",
	"nvmlDeviceGetPciInfo_v3", "nvmlSystemGetDriverVersion",
}

// Reader reads GPUs through one library. Its methods open the library when it
// is not open.
type Reader struct {
	name string
	now  func() time.Time

	// mu is held for reading during calls into the library and for writing
	// while it is opened or closed.
	mu      sync.RWMutex
	pinned  *dl.DynamicLibrary // keeps the library mapped for good
	lib     nvml.Interface     // nil when closed
	set     nvml.EventSet      // nil when events are not to be had
	opened  time.Time
	symbols symbols

	probing sync.Mutex  // guards facts and probes; held during a probe
	facts   []slowFacts // what the latest full probe found of each GPU
	probes  int

	profiling sync.Mutex      // guards gpms
	gpms      map[string]*gpm // by GPU UUID, of the open library

	broken sync.Mutex // guards the fields below
	stale  bool       // the library is to be opened again
	loaded *identity  // the library's file when it was loaded; nil before
	uuids  map[nvml.Device]string
	// pending are events of sessions that have ended, which nobody has asked for yet.
	pending []inventory.Event
}

// New returns a reader of the library with that name or path; empty means
// DefaultLibrary. Nothing is loaded yet.
func New(library string, now func() time.Time) *Reader {
	if library == "" {
		library = DefaultLibrary
	}
	return &Reader{name: library, now: now}
}

// describe words a return code without calling the library.
func describe(ret nvml.Return) string {
	words := map[nvml.Return]string{
		nvml.ERROR_UNINITIALIZED:           "not initialised",
		nvml.ERROR_INVALID_ARGUMENT:        "invalid argument",
		nvml.ERROR_NOT_SUPPORTED:           "not supported",
		nvml.ERROR_NO_PERMISSION:           "no permission",
		nvml.ERROR_NOT_FOUND:               "not found",
		nvml.ERROR_INSUFFICIENT_POWER:      "the GPU's power cables are not attached",
		nvml.ERROR_DRIVER_NOT_LOADED:       "the NVIDIA kernel driver is not loaded",
		nvml.ERROR_TIMEOUT:                 "timeout",
		nvml.ERROR_IRQ_ISSUE:               "interrupt problem",
		nvml.ERROR_LIBRARY_NOT_FOUND:       "a library was not found",
		nvml.ERROR_GPU_IS_LOST:             "the GPU has fallen off the bus",
		nvml.ERROR_RESET_REQUIRED:          "the GPU requires a reset",
		nvml.ERROR_LIB_RM_VERSION_MISMATCH: "the library's version differs from the loaded kernel driver's; reboot, or reload the driver",
		nvml.ERROR_UNKNOWN:                 "unknown error",
	}
	text, ok := words[ret]
	if !ok {
		text = "error"
	}
	return fmt.Sprintf("%s (NVML code %d)", text, int(ret))
}

// notReady is the error of a call without which nothing can be read.
func notReady(doing string, ret nvml.Return) error {
	if ret == nvml.ERROR_LIB_RM_VERSION_MISMATCH {
		return mismatchError{fmt.Errorf("%w: %s: %s", ErrNotReady, doing, describe(ret))}
	}
	return fmt.Errorf("%w: %s: %s", ErrNotReady, doing, describe(ret))
}

// mismatchError is also ErrMismatch; its text has no need to say so twice.
type mismatchError struct{ error }

// Unwrap implements what errors.Is needs for both.
func (e mismatchError) Unwrap() []error { return []error{e.error, ErrMismatch} }

// Outdated says why only a fresh process can go on reading, given the error of
// the call before, if any; empty when this one can. A process that has loaded a
// library keeps it, whatever file takes its place.
func (r *Reader) Outdated(err error) string {
	if errors.Is(err, ErrMismatch) {
		return "the loaded library is not the kernel driver's"
	}
	r.broken.Lock()
	loaded := r.loaded
	r.broken.Unlock()
	if loaded == nil {
		return ""
	}
	path := Locate(r.name)
	if path == "" {
		path = r.name
	}
	if identify(path).equal(*loaded) {
		return ""
	}
	return "the driver's library was replaced"
}

// session returns the open library; the caller calls done when it has
// finished with it.
func (r *Reader) session() (lib nvml.Interface, done func(), err error) {
	for {
		r.mu.RLock()
		if r.lib != nil && !r.isStale() {
			return r.lib, r.mu.RUnlock, nil
		}
		r.mu.RUnlock()
		if err := r.reopen(); err != nil {
			return nil, nil, err
		}
	}
}

func (r *Reader) isStale() bool {
	r.broken.Lock()
	defer r.broken.Unlock()
	return r.stale
}

func (r *Reader) setStale(stale bool) {
	r.broken.Lock()
	defer r.broken.Unlock()
	r.stale = stale
}

func (r *Reader) reopen() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lib != nil && !r.isStale() {
		return nil // another caller was first
	}
	r.rescue()
	r.closeLocked()
	path := Locate(r.name)
	if path == "" {
		path = r.name
	} else if err := checkFile(path); err != nil {
		return err
	}
	if err := r.pin(path); err != nil {
		return err
	}
	lib := nvml.New(nvml.WithLibraryPath(path))
	if ret := lib.Init(); ret != nvml.SUCCESS {
		return notReady(path, ret)
	}
	r.lib, r.opened = lib, r.now()
	r.symbols = newSymbols(lib)
	r.setStale(false)
	r.set = r.events(lib)
	return nil
}

// pin loads the library and looks up the core. It stays loaded: functions that
// were called once are bound to it for the life of the process.
func (r *Reader) pin(path string) error {
	if r.pinned != nil {
		return nil
	}
	before := identify(path)
	library := dl.New(path, dl.RTLD_LAZY|dl.RTLD_GLOBAL)
	if err := library.Open(); err != nil {
		if Locate(r.name) == "" {
			return fmt.Errorf("%w: %w", ErrNotFound, err)
		}
		return fmt.Errorf("%w: %w", ErrUnusable, err)
	}
	for _, symbol := range coreSymbols {
		if err := library.Lookup(symbol); err != nil {
			return errors.Join(
				fmt.Errorf("%w: %s lacks %s: it is another library, or older than driver R418", ErrUnusable, path, symbol),
				library.Close())
		}
	}
	r.pinned = library
	r.broken.Lock()
	defer r.broken.Unlock()
	r.loaded = &before
	return nil
}

// closeLocked ends the session. Errors are not reported: the session is ended
// because it no longer works.
func (r *Reader) closeLocked() {
	if r.set != nil {
		_ = r.set.Free()
	}
	for _, g := range r.gpms {
		if g.last != nil {
			_ = g.last.Free()
		}
	}
	if r.lib != nil {
		_ = r.lib.Shutdown()
	}
	r.lib, r.set, r.gpms = nil, nil, map[string]*gpm{}
}

// Close ends the session with the library.
func (r *Reader) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closeLocked()
}

// Path is the library file in use or to be used, for people.
func (r *Reader) Path() string {
	if path := Locate(r.name); path != "" {
		return path
	}
	return r.name
}

// eventTypes are what the plugin wants to hear of: XIDs, and what calls for a
// look at the GPU at once. Events that come with every load are not among them.
const eventTypes = nvml.EventTypeXidCriticalError | nvml.EventTypeDoubleBitEccError | nvml.EventTypeDramRetirementEvent |
	nvml.EventTypeDramRetirementFailure | nvml.EventTypeGpuUnavailableError | nvml.EventTypeGpuRecoveryAction

// events registers for XIDs on every GPU that can report them; nil when none
// can.
func (r *Reader) events(lib nvml.Interface) nvml.EventSet {
	if !r.symbols.all("nvmlEventSetCreate", "nvmlEventSetFree", "nvmlEventSetWait_v2",
		"nvmlDeviceRegisterEvents", "nvmlDeviceGetSupportedEventTypes") {
		return nil
	}
	set, ret := lib.EventSetCreate()
	if ret != nvml.SUCCESS {
		return nil
	}
	registered := 0
	count, _ := lib.DeviceGetCount() // zero on an error
	for index := range count {
		device, ret := lib.DeviceGetHandleByIndex(index)
		if ret != nvml.SUCCESS {
			continue
		}
		types, ret := device.GetSupportedEventTypes()
		if ret != nvml.SUCCESS || types&nvml.EventTypeXidCriticalError == 0 {
			continue
		}
		if device.RegisterEvents(types&eventTypes, set) == nvml.SUCCESS {
			registered++
		}
	}
	if registered == 0 {
		_ = set.Free()
		return nil
	}
	return set
}

// remember keeps the UUID of a handle: a GPU that falls off the bus reports
// its XID and no longer its name.
func (r *Reader) remember(device nvml.Device, uuid string) {
	r.broken.Lock()
	defer r.broken.Unlock()
	if r.uuids == nil {
		r.uuids = map[nvml.Device]string{}
	}
	r.uuids[device] = uuid
}

func (r *Reader) uuidOf(device nvml.Device) string {
	r.broken.Lock()
	defer r.broken.Unlock()
	return r.uuids[device]
}

// eventsMost bounds how many events are taken out of a session that ends.
const eventsMost = 256

// rescue takes the events out of a session that ends: a GPU that falls off the bus, for
// which the library is opened again, is seldom the only one to report something. What
// happens between the sessions is lost.
func (r *Reader) rescue() {
	if r.set == nil {
		return
	}
	var found []inventory.Event
	for range eventsMost {
		data, ret := r.set.Wait(0)
		if ret != nvml.SUCCESS {
			break
		}
		found = append(found, r.eventOf(data))
	}
	r.broken.Lock()
	defer r.broken.Unlock()
	r.pending = append(r.pending, found...)
}

// rescued are the events of sessions that have ended, once.
func (r *Reader) rescued() []inventory.Event {
	r.broken.Lock()
	defer r.broken.Unlock()
	found := r.pending
	r.pending = nil
	return found
}

// Wait waits at most that long for an XID. Without events to wait for it
// reports eventless, at once.
func (r *Reader) Wait(timeout time.Duration) (found []inventory.Event, eventless bool, err error) {
	_, done, err := r.session()
	if err != nil {
		return nil, true, err
	}
	defer done()
	if found = r.rescued(); r.set == nil || len(found) > 0 {
		return found, r.set == nil, nil
	}
	data, ret := r.set.Wait(uint32(timeout.Milliseconds()))
	switch {
	case ret == nvml.ERROR_TIMEOUT:
		return nil, false, nil
	case ret != nvml.SUCCESS:
		return nil, true, notReady("wait for events", ret)
	}
	return []inventory.Event{r.eventOf(data)}, false, nil
}

func (r *Reader) eventOf(data nvml.EventData) inventory.Event {
	event := inventory.Event{}
	if data.EventType == nvml.EventTypeXidCriticalError {
		event.XID = int64(data.EventData)
		event.GPUInstance, event.ComputeInstance = instanceID(data.GpuInstanceId), instanceID(data.ComputeInstanceId)
	}
	if uuid, ret := data.Device.GetUUID(); ret == nvml.SUCCESS {
		event.UUID = uuid
	} else {
		event.UUID = r.uuidOf(data.Device)
	}
	return event
}
