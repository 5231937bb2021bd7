# A user where the gate forwards the users' own tokens (credentials =
# "passthrough", the default). What lets somebody start work through the gate lets
# them start it at Nomad too: fence Nomad's addresses; see docs/production.md.
#
#   nomad acl policy apply ml-user jobs/acl/user.nomad.hcl
namespace "default" {
  policy = "write"
  # `nomad job run -policy-override`, for those whom a budget lets override.
  capabilities = ["sentinel-override"]
}

host_volume "*" {
  policy = "write"
}

# For the topology page of Nomad's UI, and `nomad node status`.
node {
  policy = "read"
}
