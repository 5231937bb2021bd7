# Governor itself, on Nomad: three agents, any of which admits while one meters.
#
#   nomad job run jobs/governor.nomad.hcl
#
# Run the first one at Nomad's own address: there is no gate yet. Later ones may
# go through the gate, which lets this job pass like any other without GPUs, so
# that an upgrade needs no way around it. When no agent runs any more, submit
# this file at Nomad's own address again: nothing else is needed to come back.
#
# Where ACLs are on, give it its tokens first (docs/production.md):
#
#   nomad acl policy apply governor jobs/acl/governor-agent.nomad.hcl
#   nomad acl token create -name=governor -type=client -policy=governor
#   nomad var put nomad/jobs/governor nomad_token=<secret> consul_token=<secret>
#
# It needs Consul on the clients (the `consul` block of the client's agent), the
# exec driver, and a free port 4640.

variable "datacenters" {
  type        = list(string)
  default     = ["*"]
  description = "Where the agents run."
}

variable "node_pool" {
  type        = string
  default     = "default"
  description = "The node pool whose nodes run agents. They need no GPUs: keep them off GPU nodes if you can."
}

variable "replicas" {
  type        = number
  default     = 3
  description = "How many agents. Two survive the loss of one; with three that also holds during an upgrade."
}

variable "release" {
  type        = string
  default     = "0.1.0"
  description = "The release to run."
}

variable "source" {
  type        = string
  default     = "https://github.com/nomad-governor/governor/releases/download"
  description = "Where releases lie: v<release>/governor_<release>_linux_<arch>.tar.gz below it, as `make release` makes them. Your own mirror, if nodes do not reach the Internet."
}

variable "checksum" {
  type        = string
  default     = ""
  description = "What the archive must be: sha256:<its line in SHA256SUMS>. Without it the archive is not checked."
}

variable "nomad_address" {
  type        = string
  default     = "http://nomad.service.consul:4646"
  description = "The Nomad servers behind the gate. A server rather than a client: some requests only servers answer."
}

variable "consul_address" {
  type        = string
  default     = "http://127.0.0.1:8500"
  description = "The Consul agent that each agent of Governor asks: the one on its node."
}

variable "port" {
  type        = number
  default     = 4640
  description = "The port of the gate. A fixed port also keeps two agents off one node; 0 lets Nomad choose."
}

variable "config" {
  type        = string
  default     = ""
  description = "More of the agent's configuration, as HCL: gate, placement, identity, tls. See docs/agent.md."
}

variable "scheme" {
  type        = string
  default     = "http"
  description = "https where `config` has a tls block."
}

variable "drain" {
  type        = string
  default     = "10s"
  description = "How long an agent that is stopped still serves after it left Consul: as long as your load balancer needs to notice."
}

variable "min_healthy_time" {
  type        = string
  default     = "15s"
  description = "How long a new agent must be healthy before the next one is replaced."
}

variable "healthy_deadline" {
  type        = string
  default     = "2m"
  description = "A new agent that is not healthy after this long is given up, and another one started."
}

variable "progress_deadline" {
  type        = string
  default     = "5m"
  description = "After this long without a healthy new agent the former version comes back."
}

job "governor" {
  type        = "service"
  datacenters = var.datacenters
  node_pool   = var.node_pool

  # GPU work waits while no agent runs, so that it should be placed before others.
  priority = 80

  # One agent after the other, the next when Consul has called the new one healthy for
  # a while. One that does not become healthy brings the former version back.
  update {
    max_parallel      = 1
    health_check      = "checks"
    min_healthy_time  = var.min_healthy_time
    healthy_deadline  = var.healthy_deadline
    progress_deadline = var.progress_deadline
    auto_revert       = true
  }

  group "agent" {
    count = var.replicas

    # A fixed port spreads agents over nodes by itself; this spreads them over
    # datacenters too.
    spread {
      attribute = "${node.datacenter}"
    }

    network {
      port "http" {
        static = var.port
      }
    }

    # Each agent keeps the history of usage in a file. It stays with the agent when it
    # is updated, and moves along where a node is drained. An agent that loses it gets
    # everything from the others.
    ephemeral_disk {
      sticky  = true
      migrate = true
      size    = 2000
    }

    restart {
      attempts = 3
      interval = "5m"
      delay    = "5s"
      mode     = "fail"
    }

    reschedule {
      delay          = "10s"
      delay_function = "exponential"
      max_delay      = "5m"
      unlimited      = true
    }

    service {
      name     = "governor"
      provider = "consul"
      port     = "http"
      tags     = [var.release]

      check {
        name     = "gate"
        type     = "http"
        protocol = var.scheme
        path     = "/governor/v1/health"
        interval = "1s"
        timeout  = "2s"

        # Consul checks that the agent answers, not who it is: its certificate is for
        # the name by which users reach it.
        tls_skip_verify = var.scheme == "https"

        # An agent that does not answer for half a minute is started again.
        check_restart {
          limit = 30
          grace = "1m"
        }
      }
    }

    task "agent" {
      driver = "exec"

      # Consul first, so that nobody new comes; then SIGTERM, after which the agent
      # answers what it is doing. A submission may take 105 seconds. Clients cut this to
      # their max_kill_timeout, 30 seconds by default; what is killed before is settled
      # by the next leader.
      shutdown_delay = var.drain
      kill_signal    = "SIGTERM"
      kill_timeout   = "150s"

      artifact {
        source      = "${var.source}/v${var.release}/governor_${var.release}_linux_${attr.cpu.arch}.tar.gz"
        destination = "local"

        dynamic "options" {
          for_each = compact([var.checksum])
          content {
            checksum = options.value
          }
        }
      }

      config {
        command = "local/governor"
        args    = ["agent", "-config=${NOMAD_SECRETS_DIR}/agent.hcl"]
      }

      # No secret is in this file: tokens come from the Nomad Variable of this job, which
      # its tasks may read by their own identity. New ones restart the agents, not all
      # at once.
      template {
        destination = "${NOMAD_SECRETS_DIR}/agent.hcl"
        perms       = "0600"
        change_mode = "restart"
        splay       = "1m"
        data        = <<-EOT
          name      = "{{ env "NOMAD_ALLOC_NAME" }}"
          bind      = "{{ env "NOMAD_ADDR_http" }}"
          advertise = "${var.scheme}://{{ env "NOMAD_ADDR_http" }}"
          data_dir  = "{{ env "NOMAD_ALLOC_DIR" }}/data"
          log_json  = true

          {{ $secrets := printf "nomad/jobs/%s" (env "NOMAD_JOB_ID") }}
          nomad {
            address = "${var.nomad_address}"
            {{ if nomadVarExists $secrets }}{{ with nomadVar $secrets }}{{ with .nomad_token }}token = "{{ . }}"{{ end }}{{ end }}{{ end }}
          }

          consul {
            address = "${var.consul_address}"
            {{ if nomadVarExists $secrets }}{{ with nomadVar $secrets }}{{ with .consul_token }}token = "{{ . }}"{{ end }}{{ end }}{{ end }}
          }

          ${var.config}
        EOT
      }

      # Measured with ten thousand running jobs (docs/performance.md): the agent that
      # meters takes 125 MB, and 200 MB while it reads all allocations.
      resources {
        cpu    = 500
        memory = 320
      }
    }
  }
}
