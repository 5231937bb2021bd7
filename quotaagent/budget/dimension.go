package budget

import (
	"strings"
	"unique"
)

// Dimension is what a limit counts: "gpus/h100", "gpu_ms/h100", "gpu_ms/any",
// "cost", "energy_j", "tokens/output" or "jobs".
type Dimension string

// Cost is money, in micro-units of the currency. Energy is what GPUs draw, in
// joules, without what the building adds (RateCard's PUE is in the price). Jobs
// counts the jobs of one agent run.
const (
	Cost   Dimension = "cost"
	Energy Dimension = "energy_j"
	Jobs   Dimension = "jobs"
)

// AnyClass stands for the sum over all GPU classes.
const AnyClass = "any"

const (
	gpusPrefix    = "gpus/"
	gpuTimePrefix = "gpu_ms/"
	tokensPrefix  = "tokens/"
)

// TokenKind is a kind of tokens of a language model, priced each for itself.
type TokenKind string

// The kinds of tokens.
const (
	InputTokens  TokenKind = "input"
	CachedTokens TokenKind = "cached"
	OutputTokens TokenKind = "output"
)

// TokenKinds are all kinds, in the order of their use.
func TokenKinds() []TokenKind { return []TokenKind{InputTokens, CachedTokens, OutputTokens} }

// Tokens is the number of tokens of a kind.
func Tokens(kind TokenKind) Dimension { return Dimension(tokensPrefix + string(kind)) }

// IsTokens reports whether the dimension counts tokens.
func (d Dimension) IsTokens() bool { return strings.HasPrefix(string(d), tokensPrefix) }

// GPUs is the GPUs of a class held at the same time, in parts of quantity.GPU.
func GPUs(class string) Dimension { return one(gpusPrefix + class) }

// GPUTime is the time for which GPUs of a class are held, in GPU-milliseconds.
func GPUTime(class string) Dimension { return one(gpuTimePrefix + class) }

// one is the only string with these letters, as those of vectors are: equal ones are
// told by their address.
func one(name string) Dimension { return unique.Make(Dimension(name)).Value() }

// Class is the GPU class that the dimension counts, or "" for one that
// counts none; of tokens it is the kind.
func (d Dimension) Class() string {
	_, class, _ := strings.Cut(string(d), "/")
	return class
}

// IsGPUs reports whether the dimension is a gauge of GPUs held at once.
func (d Dimension) IsGPUs() bool { return strings.HasPrefix(string(d), gpusPrefix) }

// IsGPUTime reports whether the dimension counts GPU-milliseconds.
func (d Dimension) IsGPUTime() bool { return strings.HasPrefix(string(d), gpuTimePrefix) }
