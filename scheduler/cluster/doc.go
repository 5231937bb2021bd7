// Package cluster is the vocabulary of placement: what the cluster looks like
// (Snapshot), what a job asks for (Ask), and which GPUs it should get on each
// node that could run it (Offer).
//
// It also holds the three small rules that everything else needs: whether a
// constraint holds (Constraint), whether an allocation got what was offered
// (Verify), and which GPUs were promised seconds ago (Reservations).
//
// It is pure: no I/O, no clock. A GPU is free when it is healthy and no
// allocation that Nomad still counts holds it.
package cluster
