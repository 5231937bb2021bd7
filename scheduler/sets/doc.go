// Package sets answers which k of the free GPUs of one machine to take.
//
// A Table compares every subset of up to 16 GPUs: Best is the set with the
// best links now. A Joint weighs those links against what the GPUs that stay
// free are worth to later jobs, because taking the best set every time breaks
// up the pairs and quads that the next jobs need. Groups of more than 16 GPUs
// are divided by their NVLink islands (Large).
//
// It is pure and knows neither nodes nor jobs: the same topology gives the same
// tables, bit for bit, on every machine and in every process.
package sets
