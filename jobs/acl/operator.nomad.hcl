# Who watches over the cluster and its budgets: sees everything, stops and moves
# work, drains nodes, and starts nothing. Budgets are changed (`governor budget
# apply`, overrides by hand, corrections) with a management token, which this is not.
#
#   nomad acl policy apply governor-operator jobs/acl/operator.nomad.hcl
namespace "*" {
  policy       = "read"
  capabilities = ["deregister-job", "evaluate-job", "alloc-lifecycle", "read-logs", "read-fs"]
}

node {
  policy = "write"
}

agent {
  policy = "read"
}

operator {
  policy = "read"
}
