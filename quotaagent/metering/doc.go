// Package metering turns what allocations really held into usage: it cuts
// [watermark, now) at window and price boundaries, prices each piece, and moves
// the watermark. Facts are always posted, also beyond what was held.
//
// Time comes from Nomad's servers: an allocation holds its GPUs from CreateTime
// until its first client-terminal update, for exactly then nobody else can use
// them. Restarts inside an allocation do not split it.
package metering
