// Package gate is the reverse proxy in front of Nomad's whole HTTP API and UI.
// Every route that can create GPU work passes through an Admitter; everything
// else is forwarded untouched, streams and websockets included. The one answer of Nomad
// that the gate may add something to is the page of its UI (Config.EditPage).
//
// The gate mirrors Nomad's own routing rules on the decoded path, judges one
// canonical document, and forwards exactly what it judged.
package gate
