// Package consultest starts a real Consul server for tests: one server, one
// data directory, loopback only, free ports. It can be stopped, frozen and
// started again with its data and address kept, so that tests can see an outage.
package consultest
