# The agent's own token with gate { credentials = "delegated" }, where it starts
# work for users who may not start any themselves. It has this policy besides
# governor-agent.nomad.hcl: what Nomad checks of a job is checked by the gate with
# the user's policies, and by Nomad with the agent's.
#
#   nomad acl policy apply governor-delegated jobs/acl/governor-agent-delegated.nomad.hcl
#   nomad acl token create -name=governor -type=client -policy=governor -policy=governor-delegated
namespace "*" {
  capabilities = ["dispatch-job", "scale-job", "sentinel-override", "csi-mount-volume", "csi-register-plugin"]
}

host_volume "*" {
  policy = "write"
}

plugin {
  policy = "read"
}
