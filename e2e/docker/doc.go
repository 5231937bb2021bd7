// Package docker runs a Docker daemon that belongs to one cluster: its data,
// state and socket are below one directory, it has no network, and it needs
// none, because its only image is made of files of this machine. A runtime
// "nvidia" is registered that is runc under another name, so that Nomad finds
// what it looks for where NVIDIA's container toolkit is installed.
//
// Package cluster starts and ends the daemon. Containers and their helpers carry
// the cluster's marker in their environment, by which they are found when the
// daemon died. install.sh installs what is needed.
package docker
