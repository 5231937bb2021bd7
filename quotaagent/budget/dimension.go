package budget

import "strings"

// Dimension is what a limit counts: "gpus/h100", "gpu_ms/h100", "gpu_ms/any"
// or "cost".
type Dimension string

// Cost is money, in micro-units of the currency.
const Cost Dimension = "cost"

// AnyClass stands for the sum over all GPU classes.
const AnyClass = "any"

const (
	gpusPrefix    = "gpus/"
	gpuTimePrefix = "gpu_ms/"
)

// GPUs is the number of GPUs of a class held at the same time.
func GPUs(class string) Dimension { return Dimension(gpusPrefix + class) }

// GPUTime is the time for which GPUs of a class are held, in GPU-milliseconds.
func GPUTime(class string) Dimension { return Dimension(gpuTimePrefix + class) }

// Class is the GPU class that the dimension counts, or "" for cost.
func (d Dimension) Class() string {
	_, class, _ := strings.Cut(string(d), "/")
	return class
}

// IsGPUs reports whether the dimension is a gauge of GPUs held at once.
func (d Dimension) IsGPUs() bool { return strings.HasPrefix(string(d), gpusPrefix) }

// IsGPUTime reports whether the dimension counts GPU-milliseconds.
func (d Dimension) IsGPUTime() bool { return strings.HasPrefix(string(d), gpuTimePrefix) }
