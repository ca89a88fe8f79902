/*
 * Shares: the parts of one budget that workers spend by never sum to more than all of it.
 *
 * The leader grants parts; an assign node lists the newest grant and, until a heartbeat has named that one, the grant before it. Workers take up what their
 * node lists at any time later, say so at any time after that, and may vanish. The leader may be replaced at any step, and go on as a zombie.
 *
 * Time is in one rule: a worker that has vanished stops spending by its local deadline, before the leader's count of a session timeout is over.
 *
 * Faults of the design, each of which must be found:
 *   GROWFIRST   grants are grown before others have been shrunk: only the newest count
 *   NEWESTONLY  so they do for a new leader
 *   NOTERM      assign nodes are written without a check of the term
 *   NOWAIT      a vanished worker's grants do not count
 *   EARLYNAME   a worker names a grant before it has taken it up
 */
#define WORKERS 2
#ifndef PLANS
#define PLANS 4		/* grants that are made at all */
#endif
#ifndef TERMS
#define TERMS 2
#endif
#define ALL 2		/* the budget, in parts */

byte term;
byte old[WORKERS];	/* assign nodes: the grant before the newest */
byte new[WORKERS];
bool two[WORKERS];	/* both are listed */
bool named[WORKERS];	/* a heartbeat has named the newest */
bool here[WORKERS];	/* the worker's own node is there */
byte plans;

byte spends[WORKERS];	/* by what part */

#define SUM	(spends[0] + spends[1])

#define larger(a, b)	((a) > (b) -> (a) : (b))

proctype Worker(byte me) {
	do
	/* takes the newest grant up */
	:: atomic { here[me] && spends[me] != new[me] -> spends[me] = new[me]; assert(SUM <= ALL) }
#ifdef EARLYNAME
	:: atomic { here[me] && two[me] && !named[me] -> named[me] = true }
#else
	:: atomic { here[me] && two[me] && !named[me] && spends[me] == new[me] -> named[me] = true }
#endif
	/* its session ends; it spends until its deadline */
	:: atomic { here[me] -> here[me] = false }
	:: atomic { !here[me] -> spends[me] = 0; break }
	od
}

proctype Leader() {
	byte my, w, p, sum;
	byte counts[WORKERS];
	byte newest[WORKERS];
	bool pending[WORKERS];

follow:	skip;
	d_step {
		my = 0; w = 0; p = 0; sum = 0;
		do
		:: w < WORKERS -> counts[w] = 0; newest[w] = 0; pending[w] = false; w++
		:: else -> break
		od;
		w = 0
	};
	/* an election, and what the new leader reads after it; nobody else can write in between */
	if
	:: atomic { term < TERMS -> term++; my = term }
	:: term == TERMS -> goto out
	fi;
	atomic {
		do
		:: w < WORKERS ->
			newest[w] = new[w];
			pending[w] = two[w] && !named[w];
			counts[w] = new[w];
#ifndef NEWESTONLY
			if :: pending[w] -> counts[w] = larger(old[w], new[w]) :: else fi;
#endif
			w++
		:: else -> break
		od;
		w = 0
	};
	do
	/* a heartbeat names the newest of what this leader wrote */
	:: atomic { term == my && pending[0] && named[0] && new[0] == newest[0] -> pending[0] = false; counts[0] = newest[0] }
	:: atomic { term == my && pending[1] && named[1] && new[1] == newest[1] -> pending[1] = false; counts[1] = newest[1] }
	/* a vanished worker, and its session timeout */
#ifdef NOWAIT
	:: atomic { !here[0] && counts[0] > 0 -> counts[0] = 0; newest[0] = 0; pending[0] = false }
	:: atomic { !here[1] && counts[1] > 0 -> counts[1] = 0; newest[1] = 0; pending[1] = false }
#else
	:: atomic { !here[0] && spends[0] == 0 && counts[0] > 0 -> counts[0] = 0; newest[0] = 0; pending[0] = false }
	:: atomic { !here[1] && spends[1] == 0 && counts[1] > 0 -> counts[1] = 0; newest[1] = 0; pending[1] = false }
#endif
	/* a plan; it counts before it is written */
	:: atomic { plans < PLANS ->
		if :: w = 0 :: w = 1 fi;
		if :: p = 0 :: p = 1 :: p = 2 fi;
		sum = larger(counts[w], p) + counts[1 - w];
#ifdef GROWFIRST
		sum = p + newest[1 - w];
#endif
		if
		:: here[w] && !pending[w] && p != newest[w] && (sum <= ALL || p < newest[w]) ->
			plans++; counts[w] = larger(counts[w], p); newest[w] = p; pending[w] = true; sum = 0
		:: else -> w = 0; p = 0; sum = 0; goto again
		fi };
		atomic {
			if
#ifdef NOTERM
			:: true ->
#else
			:: term == my ->
#endif
				if :: two[w] && !named[w] -> old[w] = larger(old[w], new[w]) :: else -> old[w] = new[w] fi;
				new[w] = p; two[w] = true; named[w] = false;
				w = 0; p = 0
			:: else -> goto follow
			fi };
again:		skip
	/* replaced, as it learns sooner or later */
	:: atomic { term > my -> goto follow }
	od;
out:	skip
}

init {
	atomic {
		here[0] = true; here[1] = true;
		run Worker(0); run Worker(1); run Leader(); run Leader()
	}
}
