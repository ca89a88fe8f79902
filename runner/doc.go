// Package runner carries a job through: it plans a run or resumes one, moves each shard's documents through the mapping
// into batches and to the gateways, keeps the books, and leaves a state from which the next call goes on.
//
// A document's path is a stack of ordinary calls. One goroutine owns a shard: it takes chunks from the reader, maps each
// document into the open batch of its row's region server, sends full batches, each from a goroutine of its own, and
// settles what comes back. A document is settled when its row is acknowledged, when it was filtered, or when its dead letter
// is written; the watermark is the end of the settled prefix and moves in one place only, shard.advance, from the queue that
// brings the acknowledgements. The saver makes watermarks durable every two seconds or 64 MiB: first the letters, then the
// marks.
//
// What a crash leaves: a plan without a table (the table is created by the next call), rows beyond the watermark (they are
// put again with the same timestamps, which changes nothing), letters beyond it (the same letter is written again and
// counts once). Nothing else.
//
// The package knows neither YAML nor terminals nor which kind of source it reads; package cmd/drover wires those.
package runner
