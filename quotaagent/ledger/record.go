package ledger

import "errors"

// Record is one document of the store as read. Version is 0 when the key does
// not exist; otherwise it changes with every write of the key.
type Record struct {
	Key     string
	Value   []byte
	Version uint64
}

// Write is one document to be written if its version is still Version (0: only
// if the key does not exist). A nil Value deletes the key.
type Write struct {
	Key     string
	Value   []byte
	Version uint64
	// Check writes nothing: the commit only fails if the version is another one,
	// 0 again meaning that the key does not exist. Value must be nil.
	Check bool
}

// MaxWrites is the most writes of one commit: Consul's documented limit of 64
// operations per transaction, less one for the leader's session check.
const MaxWrites = 63

// MaxValue is the largest value in bytes: Consul's 512 KiB.
const MaxValue = 512 << 10

// Fence proves leadership to the store. The zero Fence asks for no proof.
type Fence struct {
	// Session is the store's name for the leader's lock session.
	Session string
}

// The errors of a store, for errors.Is.
var (
	// ErrConflict: some document was written by someone else since it was read,
	// or the fence is no longer the leader's; nothing was written.
	ErrConflict = errors.New("ledger: written concurrently")
	// ErrUnavailable: the store cannot be reached or has no quorum. The write may
	// or may not have happened.
	ErrUnavailable = errors.New("ledger: store unavailable")
)
