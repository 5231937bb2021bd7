// Package control writes the file that changes a running fake NVML library
// (FAKENVML_CONTROL): a GPU falls off the bus, an XID arrives, utilisation
// rises, a call hangs. Every change replaces the whole file by rename, so that
// the library never reads half of one, and the library sees it on its next call.
//
// A Control owns its file: it starts from no changes and does not read what an
// earlier one wrote.
package control
