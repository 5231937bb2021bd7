// Package setstest has what tests of placement on one machine measure with:
// the machines, the fixtures' topologies, a model of ring bandwidth, NVIDIA's
// partition rule, and churn. None of it uses the product's tables, so that it
// can judge them.
package setstest
