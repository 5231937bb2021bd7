// Package passage tests, on a real Nomad, what the gate lets through untouched:
// streams, blocking queries, websockets and job sources; and the bodies that it
// refuses because it cannot judge them safely.
package passage
