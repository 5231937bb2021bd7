// Package rewrite turns an offer into additions to a Nomad job: constraints and
// affinities at the end of the existing lists, nothing else. Meta, env, counts
// and everything the user wrote stay as they are.
//
// The additions are a pure function of the submitted job, the stored job and
// the offer, and they are sticky: submitting the same job again gives the same
// document, whatever happened to the cluster meanwhile, so that Nomad makes no
// new version and restarts nothing. Any change of a device block restarts the
// group (nomad scheduler/util.go, nonNetworkResourcesUpdated), so devices are pinned only
// when the group starts anyway.
//
// What is added to a pinned group:
//
//	group "train" {
//	  constraint { attribute = "${node.unique.id}" operator = "is_set" }
//	  affinity   { attribute = "${node.unique.id}" operator = "is" value = "<best node>" weight = 100 }
//	  task "main" { resources { device "nvidia/gpu" {
//	    constraint { attribute = "${device.ids}" operator = "set_contains_any" value = "<best set of each node>" }
//	  } } }
//	}
//
// The first line is always true. It makes Nomad look at every node by itself:
// without it one node of a class that lacks the listed devices rules out its
// whole class (nomad/structs/node_class.go does not hash device ids).
package rewrite
