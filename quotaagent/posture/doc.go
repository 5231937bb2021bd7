// Package posture reads of a Nomad cluster what the search for ways around the gate
// needs to know, with whatever token it is given, and tries Nomad's addresses. It
// keeps no secret: of tokens it reads accessors and names.
package posture
