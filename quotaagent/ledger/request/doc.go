// Package request says what a store of ledger records may be asked: which keys
// are legal, how much one commit or read may hold.
//
// Every store applies these rules before it does any work, so that a program
// which works on one store works on all of them. The limits are those of the
// narrowest store, Consul.
package request
