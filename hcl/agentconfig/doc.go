// Package agentconfig is the configuration file of `governor agent`: HCL,
// decoded strictly, with defaults, merged with flags, and validated as a whole.
package agentconfig
