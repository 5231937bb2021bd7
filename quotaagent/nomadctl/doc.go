// Package nomadctl changes things in Nomad with the agent's own token: it
// signals and stops what runs, scales groups, and registers a job again that
// waited for budget. It decides nothing, and every call may be repeated: a stop
// of what has stopped already, or of what is gone, is no error.
//
// Errors say what they mean for the caller: the thing is gone (ErrNotFound), it
// was changed by somebody else (ErrConflict), Nomad refused (ErrRefused), or it is
// not known whether Nomad did it (ErrUnknown) and the caller must look.
package nomadctl
