# /etc/governor/agent.hcl: one agent of Governor. See docs/agent.md for all that
# can be said here. Tokens are better kept in governor.env than here.

# Where users send what they sent to Nomad: NOMAD_ADDR=http://<this host>:4640.
# Serve HTTPS where tokens travel over a network (the tls block below).
bind = "127.0.0.1:4640"

# The URL by which other agents reach this one. Needed where bind is 0.0.0.0.
# advertise = "https://governor-1.example.com:4640"

data_dir = "/var/lib/governor"
log_json = true

nomad {
  # A server, rather than a client.
  address = "http://127.0.0.1:4646"
}

consul {
  address = "http://127.0.0.1:8500"
}

# tls {
#   cert_file = "/etc/governor/gate.pem"
#   key_file  = "/etc/governor/gate-key.pem" # readable by group governor
# }
