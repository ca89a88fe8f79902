// Package fleet makes many processes on many hosts one pool that moves a run's shards, with ZooKeeper between them: one
// leads, all that have room work, and whoever fails is replaced without a row lost, doubled or sent too fast.
//
//	member       a process of the pool, from one session to the next an incarnation with an id of its own
//	term         the leader's number: the version of one persistent node, set as the leader's own node is made
//	beat         what a member tells every third of a session timeout: what it obeyed, let go and wants
//	order        what the leader tells a member: which shards it has under which epochs, and its grants
//	epoch        the version of a shard's node, which is set only when the right to the shard changes hands
//	attempt      the folder of a plan's shards; its name is random, so that none of its nodes is ever made twice
//	grant        the part of a table's limit, at most 1, that a member may spend; those given out never sum to more
//	deadline     until when a member is sure to have its session, by its own clock; without it nothing is sent
//	tide         a node that each beat sets too: its version only grows, so it tells whether ZooKeeper went back
//	held         nothing moves, because ZooKeeper shows something older than was seen before; an alert says so
//
// The leader and the worker are state machines without input or output (machine): what happens is handed to them with the
// time, what they want done comes out as effects. So a simulation drives the very code that runs. Member is the edge that
// carries effects to a zookeeper.Client and their answers back. Commands are plain functions, each of one conditional write.
//
// Nothing here reads or writes a row: planning and working are funcs that package cmd/drover gives. A run that one process
// does alone needs none of this.
package fleet
