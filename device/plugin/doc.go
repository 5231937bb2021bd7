// Package plugin speaks Nomad's device plugin protocol for NVIDIA GPUs.
//
// Two rules come from how Nomad treats a device plugin (client/devicemanager/
// instance.go): a fingerprint stream that ends, or that carries an error, makes
// Nomad drop all devices of the plugin until the client is restarted. So this
// plugin never does either. Whatever happens to the driver, the devices stay
// listed, unhealthy and with the reason, and become healthy again by themselves.
//
// One goroutine, the monitor, reads the GPUs and owns what is known about them;
// streams follow it. It starts with the first stream and ends with Close.
package plugin
