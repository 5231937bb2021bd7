# The agent's token for Consul.
#
#   consul acl policy create -name=governor -rules=@jobs/acl/governor-agent.consul.hcl
#   consul acl token create -description=governor -policy-name=governor

# The ledger. The prefix is consul.prefix of the agent's configuration.
key_prefix "governor/" {
  policy = "write"
}

# The lock of the agent that leads: a session on the node that the agent asks.
session_prefix "" {
  policy = "write"
}
