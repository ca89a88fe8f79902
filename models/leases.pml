/*
 * Leases: who may work on a shard, what a checkpoint covers, and when a run is done.
 *
 * A run starts as one shard [0, N). An owner puts batches, each a unit of the key space, up to two in flight, and checkpoints the contiguous
 * prefix of those that are settled. It may crash, or freeze and go on as a zombie, before any step: nothing here makes it stop when it
 * loses a shard, only its writes are refused. Leaders hand shards over, ask for a split, and retire the run. Two of them are at it all the time,
 * which is more than any change of the leader does: their writes are decided by the versions of what they write, and the term, which
 * grants need (shares.pml), is not needed for this.
 *
 * What stands in ZooKeeper is global, and an atomic block with a write is one multi. Puts land in HBase whenever they do; timestamps are
 * fixed, so landing is only ever setting a bit.
 *
 * Faults of the design, each of which must be found:
 *   NOFENCE       checkpoints are written without a check of the epoch
 *   NOSPLITFENCE  a split is
 *   HIGHEST       a watermark is the highest acknowledged batch instead of the end of the prefix
 *   EARLYREAD     an owner reads the checkpoint before the shard is its own
 *   LATELIST      done: the run's version is read after its shards were listed, and the list is not looked at for gaps
 */
#ifndef N
#define N 3		/* units of the key space */
#endif
#ifndef MOVES
#define MOVES 1		/* hand-overs besides the first assignment of each shard */
#endif
#define NOBODY 2

byte epoch[2];		/* version of s/<n> */
byte owner[2] = NOBODY;
byte begin[2];
byte end[2];
byte ckpt[2];
byte shards = 1;
byte runVersion;
bool done;
bool asked;		/* somebody wants shard 0 split */
byte moves;

bool landed[N];		/* in HBase */

#define COVERED(u)	(!((begin[0] <= u && u < ckpt[0]) || (shards == 2 && begin[1] <= u && u < ckpt[1])) || landed[u])
/*
 * What is below a watermark is in HBase; done means that all is; the shards tile the key space. Only a checkpoint, a split and done can
 * break that, so it is asked there.
 */
#if N == 3
#define SAFE	(COVERED(0) && COVERED(1) && COVERED(2) && (!done || (landed[0] && landed[1] && landed[2])) && TILED)
#else
#define SAFE	(COVERED(0) && COVERED(1) && COVERED(2) && COVERED(3) && (!done || (landed[0] && landed[1] && landed[2] && landed[3])) && TILED)
#endif
#define TILED	(shards == 1 || (end[0] == begin[1] && end[1] == N))

#ifdef NOFENCE
#define MINE	true
#else
#define MINE	(epoch[s] == my)
#endif
#ifdef NOSPLITFENCE
#define MAYSPLIT	true
#else
#define MAYSPLIT	(epoch[0] == my)
#endif

proctype Worker(byte me) {
	byte s, my, mark, hi, stop, i;
	bool ack[2];		/* of the units mark and mark+1 */

idle:	skip;
	d_step { s = 0; my = 0; mark = 0; hi = 0; stop = 0; i = 0; ack[0] = false; ack[1] = false };
	if
	:: done -> goto out
#ifdef EARLYREAD
	:: atomic { owner[0] != me -> mark = ckpt[0]; hi = mark };
	   atomic { owner[0] == me -> my = epoch[0]; stop = end[0] }
#else
	:: atomic { owner[0] == me -> my = epoch[0]; mark = ckpt[0]; hi = mark; stop = end[0] }
#endif
	:: atomic { owner[1] == me -> s = 1; my = epoch[1]; mark = ckpt[1]; hi = mark; stop = end[1] }
	fi;
	do
	:: done -> goto out
	:: atomic { mark >= stop -> (owner[s] != me || epoch[s] != my || done) -> goto idle }
	:: atomic { hi < stop && hi < mark + 2 -> hi++ }
	/* acknowledgements, in any order */
	:: atomic { hi > mark && !ack[0] -> landed[mark] = true; ack[0] = true }
	:: atomic { hi > mark + 1 && !ack[1] -> landed[mark + 1] = true; ack[1] = true }
	/* Multi{Check(s, epoch), Set(c)} of what is settled; a refusal ends the lease */
#ifdef HIGHEST
	:: atomic { (ack[0] || ack[1]) ->
		i = (ack[1] -> 2 : 1);
#else
	:: atomic { ack[0] ->
		i = (ack[1] -> 2 : 1);
#endif
		if
		:: MINE ->
			assert(mark + i >= ckpt[s] && mark + i <= end[s]);	/* never back, nor beyond the shard */
			mark = mark + i; ckpt[s] = mark; i = 0; ack[0] = false; ack[1] = false;
			hi = (hi < mark -> mark : hi);
			assert(SAFE)
		:: else -> goto idle
		fi }
	/* Multi{Check(s, epoch), Set(c, end), Create(s'), Create(c'), Set(run)} beyond what was read: the epoch stays */
	:: atomic { asked && s == 0 && shards == 1 && hi + 1 < stop ->
		if
		:: MAYSPLIT ->
			i = hi + 1;
			assert(ckpt[0] <= i);
			begin[1] = i; ckpt[1] = i; end[1] = end[0]; end[0] = i; stop = i; i = 0;
			shards = 2; runVersion++;
			assert(SAFE)
		:: else -> goto idle
		fi }
	/* a crash: all that is not in ZooKeeper or HBase is forgotten */
	:: goto idle
	od;
out:	skip
}

proctype Leader() {
	byte v, n, i, left;

	do
	:: done -> break
	/* Multi{Set(s, epoch), Set(assign)}: the first assignment, and hand-overs to anybody */
	:: atomic { epoch[0] == 0 -> epoch[0] = 1; if :: owner[0] = 0 :: owner[0] = 1 fi }
	:: atomic { shards == 2 && epoch[1] == 0 -> epoch[1] = 1; if :: owner[1] = 0 :: owner[1] = 1 fi }
	:: atomic { moves < MOVES && epoch[0] > 0 -> moves++; epoch[0]++; if :: owner[0] = 0 :: owner[0] = 1 fi }
	:: atomic { moves < MOVES && epoch[1] > 0 -> moves++; epoch[1]++; if :: owner[1] = 0 :: owner[1] = 1 fi }
	:: atomic { !asked -> asked = true }
	/* retire: the run's version, its shards one after the other, and one conditional write */
	:: atomic { v = runVersion; n = shards; left = N };
		do
		:: atomic { i < n && ckpt[i] == end[i] -> left = left - (end[i] - begin[i]); i++ }
		:: atomic { i < n && ckpt[i] != end[i] -> break }
		:: i >= n -> break
		od;
#ifdef LATELIST
		v = runVersion;
		if :: i == n -> left = 0 :: else fi;
#endif
		atomic {
			if
			:: i == n && left == 0 && runVersion == v && !done -> done = true; assert(SAFE)
			:: else
			fi;
			v = 0; n = 0; i = 0; left = 0
		}
	od
}

init {
	atomic { end[0] = N; run Worker(0); run Worker(1); run Leader(); run Leader() }
}
