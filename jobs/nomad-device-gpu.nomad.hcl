# Puts the device plugin onto all GPU nodes, as far as a job can.
#
#   nomad job run -var node_pool=gpu -var checksum=sha256:<hex> jobs/nomad-device-gpu.nomad.hcl
#
# Nomad loads plugins from plugin_dir when a client starts, and from nowhere else.
# So what belongs onto the node's image, or into the hands of what configures
# nodes, is the package nomad-device-gpu (deb or rpm; docs/production.md): prefer it.
# This job is for clusters without either. It changes one file, and prints what
# remains to be done on each node: it does not restart the client that runs it.
#
# It needs the raw_exec driver, because plugin_dir must not be writable by tasks.
# Where raw_exec is off on GPU nodes, leave it off (a raw_exec task reaches every
# GPU, and `governor doctor` says so) and take the package.

variable "datacenters" {
  type        = list(string)
  default     = ["*"]
  description = "Where the GPU nodes are."
}

variable "node_pool" {
  type        = string
  default     = "all"
  description = "The node pool of the GPU nodes."
}

variable "release" {
  type        = string
  default     = "0.1.0"
  description = "The release to install."
}

variable "source" {
  type        = string
  default     = "https://github.com/nomad-governor/governor/releases/download"
  description = "Where releases lie: v<release>/nomad-device-gpu_<release>_linux_<arch>.tar.gz below it."
}

variable "checksum" {
  type        = string
  default     = ""
  description = "What the archive must be: sha256:<its line in SHA256SUMS>. Without it the archive is not checked."
}

variable "plugin_dir" {
  type        = string
  default     = "/opt/nomad/plugins"
  description = "plugin_dir of the clients' configuration."
}

job "nomad-device-gpu" {
  # On every node once, also on those that join later.
  type        = "sysbatch"
  datacenters = var.datacenters
  node_pool   = var.node_pool

  constraint {
    attribute = "${attr.kernel.name}"
    value     = "linux"
  }

  group "install" {
    restart {
      attempts = 2
      mode     = "fail"
    }

    task "install" {
      driver = "raw_exec"

      artifact {
        source      = "${var.source}/v${var.release}/nomad-device-gpu_${var.release}_linux_${attr.cpu.arch}.tar.gz"
        destination = "local"

        dynamic "options" {
          for_each = compact([var.checksum])
          content {
            checksum = options.value
          }
        }
      }

      config {
        command = "/bin/sh"
        args    = ["${NOMAD_TASK_DIR}/install.sh"]
      }

      # A new file is renamed over the old one, which the running plugin keeps. It gets its
      # mode last: Nomad starts every executable that it finds in plugin_dir.
      template {
        destination = "local/install.sh"
        data        = <<-EOT
          set -eu
          from="$NOMAD_TASK_DIR/nomad-device-gpu" to="${var.plugin_dir}/nomad-device-gpu"
          if [ -e "${var.plugin_dir}/nomad-device-nvidia" ]; then
            echo "Remove ${var.plugin_dir}/nomad-device-nvidia first: two plugins must not offer one GPU." >&2
            exit 1
          fi
          if cmp -s "$from" "$to"; then
            echo "$to is $("$to" version) already."
            exit 0
          fi
          mkdir -p "${var.plugin_dir}"
          cp "$from" "$to.new"
          chmod 0644 "$to.new"
          sync "$to.new"
          mv -f "$to.new" "$to"
          chmod 0755 "$to"
          echo "$to is $("$to" version) now. What remains:"
          echo '  1. In the client configuration: plugin_dir = "${var.plugin_dir}" and plugin "nomad-device-gpu" { config { enabled = true } }'
          echo "  2. systemctl restart nomad. Tasks go on running meanwhile."
          echo "  3. $to doctor -config /etc/nomad.d/client.hcl"
        EOT
      }

      resources {
        cpu    = 50
        memory = 64
      }
    }
  }
}
