// Package acl says what Nomad's ACL policies allow, by Nomad's own rules. Nomad's
// package for it is under a licence that Governor cannot use, and Nomad itself answers
// only by doing what it is asked.
package acl
