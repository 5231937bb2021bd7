// Package deviceconfig is the device plugin's configuration: the inside of its
// plugin block in a Nomad client's configuration. Nomad sends the block to the
// plugin; people give the same file to the plugin's commands. Both become a
// Block, and Check makes Settings of it or says what is wrong. It is pure.
package deviceconfig
