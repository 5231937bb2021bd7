// Package webhook delivers events to the addresses that a policy names: one attempt,
// as a CloudEvent over HTTP, signed as the Standard Webhooks specification says. Who
// calls it decides what is tried again.
package webhook
