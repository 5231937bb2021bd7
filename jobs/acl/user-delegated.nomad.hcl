# A user where the gate has the right to start work and users have none
# (credentials = "delegated"). plan-job stands for starting work through the gate;
# at Nomad itself it starts nothing. Needs Nomad 1.11.2 or newer.
#
#   nomad acl policy apply ml-user jobs/acl/user-delegated.nomad.hcl
namespace "default" {
  policy       = "read"
  capabilities = ["plan-job", "deregister-job", "evaluate-job", "promote-deployment", "alloc-lifecycle", "alloc-exec", "read-logs", "read-fs"]
}

# Volumes that users may mount: the gate compares their jobs with this.
host_volume "shared" {
  policy = "write"
}

node {
  policy = "read"
}
