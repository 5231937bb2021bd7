# What a Nomad client needs besides the package nomad-device-gpu, for example as
# /etc/nomad.d/gpu.hcl; then restart the client. A client has one plugin_dir: where
# yours is another one, link the plugin there instead of this line.
plugin_dir = "/opt/nomad/plugins"

plugin "nomad-device-gpu" {
  config {
    enabled = true
  }
}

# Statistics of the GPUs in `nomad alloc status`.
telemetry {
  publish_allocation_metrics = true
}
