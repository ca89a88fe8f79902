package zookeeper

import (
	"errors"
	"fmt"

	"github.com/go-zookeeper/zk"
)

// What a call can end with, for errors.Is. An error may be two of these: a write that was under way when the session was
// lost is both ErrSessionLost and ErrUnknown.
var (
	ErrNoNode     = errors.New("no such node")
	ErrNodeExists = errors.New("the node exists")
	ErrBadVersion = errors.New("the node has another version")
	ErrNotEmpty   = errors.New("the node has children")
	ErrNoAuth     = errors.New("no permission")
	ErrTooLarge   = errors.New("larger than the 1 MB that ZooKeeper takes")

	// ErrSessionLost says that the session the call belonged to is over. Unless the error is ErrUnknown too, nothing
	// happened.
	ErrSessionLost = errors.New("the session is lost")

	// ErrUnknown says that a write was sent and its answer is not known: it may have happened, and it will not happen later
	// than a Sync that the same session makes from now on. So Sync, read back, and compare. When the session is lost too, it
	// may happen even later, and only a Check in its Multi tells whether it still fits.
	ErrUnknown = errors.New("it may or may not have happened")

	// ErrNotConnected says that no server could be asked in time. Nothing happened.
	ErrNotConnected = errors.New("no connection to ZooKeeper")

	// ErrClosed says that the client was closed. Unless the error is ErrUnknown too, nothing happened.
	ErrClosed = errors.New("the ZooKeeper client is closed")

	// ErrRolledBack marks the operations of a failed multi beside the one that failed.
	ErrRolledBack = errors.New("undone, because another operation of the multi failed")
)

// meanings are the library's errors that a server's answer stands behind, or that it found before anything was sent: all
// others leave open what happened.
var meanings = []struct{ theirs, ours error }{
	{zk.ErrNoNode, ErrNoNode},
	{zk.ErrNodeExists, ErrNodeExists},
	{zk.ErrBadVersion, ErrBadVersion},
	{zk.ErrNotEmpty, ErrNotEmpty},
	{zk.ErrNoAuth, ErrNoAuth},
	{zk.ErrAuthFailed, ErrNoAuth},
	{zk.ErrShortBuffer, ErrTooLarge},
	{zk.ErrSessionExpired, ErrSessionLost},
	{zk.ErrNoChildrenForEphemerals, errors.New("an ephemeral node cannot have children")},
	{zk.ErrInvalidACL, errors.New("the access list is not valid: one that names the creator needs auth")},
	{zk.ErrInvalidPath, errors.New("not a path: it starts with / and has no empty or dotted parts")},
	{zk.ErrInvalidFlags, zk.ErrInvalidFlags},
	{zk.ErrBadArguments, zk.ErrBadArguments},
}

// meaning finds ours for one of theirs.
func meaning(theirs error) (ours error, known bool) {
	for _, m := range meanings {
		if errors.Is(theirs, m.theirs) {
			return m.ours, true
		}
	}
	return nil, false
}

// transient tells whether waiting can mend err.
func transient(err error) bool {
	return errors.Is(err, ErrUnknown) || errors.Is(err, ErrSessionLost) || errors.Is(err, ErrNotConnected) || errors.Is(err, ErrClosed)
}

// OpError says which operation of a multi failed. Unwrap gives why.
type OpError struct {
	Index int // into the operations
	Op    Op
	Err   error
}

func (e *OpError) Error() string {
	return fmt.Sprintf("operation %d, %s: %v", e.Index, e.Op, e.Err)
}

func (e *OpError) Unwrap() error { return e.Err }
