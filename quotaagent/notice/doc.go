// Package notice decides who is told what: it makes events of conditions that begin and
// end and of what is in the audit log, and keeps them in an outbox for each notifier
// until they are delivered.
//
// An event is made once, however often and by whichever agent the condition is looked
// at, and has one id for ever. It leaves an outbox when it was delivered, or given up
// after a day. Events about one subject leave in the order in which they were made;
// those about another one do not wait for them. The package sends nothing and takes the
// time as an argument.
package notice
