gpu_class "h100" {
  devices = [
}
