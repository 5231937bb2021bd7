// Package uipanel puts Governor's panel into the pages of Nomad's own UI: Edit adds one
// script to the page that the gate passes on, and Handler serves the script and its style
// sheet.
//
// Whatever is not certainly the page of Nomad's UI stays as it is, and where the page's own
// Content-Security-Policy would not let the script run, none is added: an operator who
// forbids it sees plain Nomad UI, without an error in the console.
package uipanel
