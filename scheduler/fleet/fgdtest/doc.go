// Package fgdtest repeats the evaluation of "Beware of Fragmentation: Scheduling
// GPU-Sharing Workloads with Fragmentation Gradient Descent" (ATC'23) so that
// the policy of package fleet can be held against the best one published.
//
// It reads the openb traces and the authors' own results, arranges the pods as
// the authors' simulator does, and has its six policies, written from their
// description. Nothing departs: pods arrive until they have asked for 130 % of
// the GPUs, and what counts is how much of the GPUs is then in use.
//
// The tests read the traces where GOVERNOR_DATA says, and skip without them. They
// run a sample; GOVERNOR_FGD=full runs all workloads and seeds (some 20 minutes),
// GOVERNOR_FGD=3 all workloads with three seeds.
//
// It is a harness: no product code imports it, and it keeps no trace itself.
package fgdtest
