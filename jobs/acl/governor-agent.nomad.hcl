# The agent's own token.
#
#   nomad acl policy apply governor jobs/acl/governor-agent.nomad.hcl
#   nomad acl token create -name=governor -type=client -policy=governor

# Jobs that waited for budget are released, overdrawn ones scaled or ended.
# Without submit-job and alloc-lifecycle that is logged and not done.
namespace "*" {
  capabilities = ["list-jobs", "read-job", "submit-job", "alloc-lifecycle"]
}

# GPUs, their topology and who uses them.
node {
  policy = "read"
}

# To notice ways around the gate that open later.
operator {
  policy = "read"
}

agent {
  policy = "read"
}

# Where jobs that mount volumes may wait for budget: the agent's token registers
# them anew when it is their turn. Take the comment signs away.
#
# namespace "*" {
#   capabilities = ["csi-mount-volume"]
# }
#
# host_volume "*" {
#   policy = "write"
# }
