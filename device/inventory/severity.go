package inventory

import (
	"fmt"
	"slices"
)

// Severity is how much a condition takes from a GPU.
type Severity uint8

// The severities, from nothing to everything.
const (
	Harmless  Severity = iota // counted, no more
	Degraded                  // works with less than it should: slower, or not with others
	Unhealthy                 // must not be used
)

// severityWords are what people write for a severity.
var severityWords = []string{"ignore", "degraded", "unhealthy"}

// ParseSeverity reads "ignore", "degraded" or "unhealthy".
func ParseSeverity(text string) (Severity, error) {
	if i := slices.Index(severityWords, text); i >= 0 {
		return Severity(i), nil
	}
	return 0, fmt.Errorf(`%q is not a severity; it is "ignore", "degraded" or "unhealthy"`, text)
}

// String is the word for the severity.
func (s Severity) String() string {
	if int(s) < len(severityWords) {
		return severityWords[s]
	}
	return "unknown"
}

// Policy says what a condition means. The zero value is the default.
type Policy struct {
	// XIDs overrides the severity of XIDs in NVIDIA's catalogue.
	XIDs map[int64]Severity
	// Conditions overrides the severity of conditions by their Code.
	Conditions map[Code]Severity
	// Withhold treats degraded GPUs as unhealthy: no job is placed on them.
	Withhold bool
	// CleanReads is how many readings in a row must be without trouble
	// before a condition ends; 0 means 10.
	CleanReads int
}

const cleanReadsDefault = 10

func (p Policy) cleanReads() int {
	if p.CleanReads == 0 {
		return cleanReadsDefault
	}
	return p.CleanReads
}

// Code names a kind of condition in one stable word, for health descriptions,
// metrics and the configuration.
type Code string

// The conditions that a reading can show. XIDs have codes of their own,
// "xid_79".
const (
	CodeRecoveryAction Code = "recovery_action"     // the driver asks for a reset or more
	CodeRemapFailure   Code = "row_remap_failure"   // no spare rows: replace the board
	CodeRemapPending   Code = "row_remap_pending"   // a row waits for a reset
	CodeRetirePending  Code = "page_retire_pending" // pages wait for a reset
	CodeECC            Code = "ecc_uncorrected"     // and no row remapping to mend it
	CodeNVLink         Code = "nvlink_down"         // fewer NVLinks than there were or should be
	CodeNVLinkOneSided Code = "nvlink_one_sided"    // the two ends disagree
	CodeFabric         Code = "fabric_not_ready"    // NVSwitch fabric not (yet) set up
	CodeFabricHealth   Code = "fabric_degraded"     // the fabric manager reports trouble
	CodeThermal        Code = "thermal_slowdown"    // slowed by heat
	CodePowerBrake     Code = "power_brake"         // slowed by the host's power supply
	CodeSlowdown       Code = "hardware_slowdown"   // slowed by hardware, cause not told
	CodeMIGPending     Code = "mig_mode_pending"    // MIG mode changes at the next reset
)

// conditionKind is what is known about a kind of condition beforehand.
type conditionKind struct {
	severity Severity
	// enter is how many readings in a row must show it before it counts.
	enter int
}

// conditionKinds lists every kind. Throttling comes and goes with the load and
// the room's air: it counts once it lasts.
var conditionKinds = map[Code]conditionKind{
	CodeRecoveryAction: {Unhealthy, 1},
	CodeRemapFailure:   {Unhealthy, 1},
	CodeRemapPending:   {Degraded, 1},
	CodeRetirePending:  {Degraded, 1},
	CodeECC:            {Unhealthy, 1},
	CodeNVLink:         {Degraded, 1},
	CodeNVLinkOneSided: {Degraded, 2},
	CodeFabric:         {Unhealthy, 1},
	CodeFabricHealth:   {Degraded, 2},
	CodeThermal:        {Degraded, 5},
	CodePowerBrake:     {Degraded, 5},
	CodeSlowdown:       {Degraded, 5},
	CodeMIGPending:     {Degraded, 1},
}

// Codes lists the conditions that the configuration can name, sorted.
func Codes() []Code {
	codes := []Code{}
	for code := range conditionKinds {
		codes = append(codes, code)
	}
	slices.Sort(codes)
	return codes
}

func (p Policy) severity(code Code) Severity {
	if s, set := p.Conditions[code]; set {
		return s
	}
	return conditionKinds[code].severity
}

// xidKind is an entry of NVIDIA's XID catalogue (October 2025) that concerns
// the GPU and not only the application.
type xidKind struct {
	severity Severity
	words    string
}

// xidKinds lists the XIDs that say something about the GPU. All others are
// counted: the application's own faults (13, 31, 43, 45, 94 and so on), and
// reports that are about something else. 109 follows ordinary application hangs
// too: the catalogue says reset, the driver's recovery action decides. 144 to
// 150 are NVLink 5 errors whose meaning is in a sub-code that NVML does not
// pass on; 154 says that the recovery action changed, which each reading sees.
var xidKinds = map[int64]xidKind{
	46:  {Unhealthy, "the GPU stopped processing"},
	48:  {Unhealthy, "double-bit memory error"},
	54:  {Unhealthy, "auxiliary power is not connected"},
	62:  {Unhealthy, "the GPU's micro-controller halted"},
	64:  {Unhealthy, "a failing memory row could not be recorded"},
	74:  {Degraded, "NVLink error"},
	78:  {Degraded, "the vGPU software does not fit the driver"},
	79:  {Unhealthy, "the GPU has fallen off the bus"},
	95:  {Unhealthy, "uncontained memory error"},
	110: {Unhealthy, "security fault"},
	119: {Unhealthy, "the GPU's system processor does not answer"},
	120: {Unhealthy, "the GPU's system processor failed"},
	136: {Unhealthy, "NVLink training failed"},
	140: {Unhealthy, "memory error without recovery"},
	143: {Unhealthy, "the GPU could not be initialised"},
	144: {Degraded, "NVLink error"},
	145: {Degraded, "NVLink error"},
	146: {Degraded, "NVLink error"},
	147: {Degraded, "NVLink error"},
	148: {Degraded, "NVLink error"},
	149: {Degraded, "NVLink error"},
	150: {Degraded, "NVLink error"},
	151: {Unhealthy, "the virtual machine must be restarted"},
	155: {Unhealthy, "NVLink error"},
	156: {Unhealthy, "a hardware unit was retired"},
	158: {Unhealthy, "the GPU did not answer in time"},
}

func xidCode(number int64) Code { return Code(fmt.Sprintf("xid_%d", number)) }

func (p Policy) xidSeverity(number int64) Severity {
	if s, set := p.XIDs[number]; set {
		return s
	}
	return xidKinds[number].severity
}

func xidWords(number int64) string {
	if words := xidKinds[number].words; words != "" {
		return words
	}
	return "reported by the driver"
}

// recoveryActions are the words for NVML's field 230
// (nvmlDeviceGpuRecoveryAction_t).
var recoveryActions = []string{"", "reset the GPU", "reboot the node", "drain peer-to-peer traffic",
	"drain and reset the GPU", "recover the IMEX domain", "reset the bus", "reboot the system"}

func recoveryWords(action int64) string {
	if action < 0 || action >= int64(len(recoveryActions)) {
		return fmt.Sprintf("perform recovery action %d", action)
	}
	return recoveryActions[action]
}
