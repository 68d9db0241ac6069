// What every workload shares: burning a known amount of CPU, and telling the truth about it.
//
// A workload runs for SECONDS (argv[1]) of wall time and prints one line of JSON at its end:
//   {"cpu_ns": {"NAME": N, …}, "user_ns": N, "system_ns": N}
// cpu_ns is what a function (or thread, or process) really took by its own thread's CPU clock;
// user_ns and system_ns are the whole process's, by getrusage.
#ifndef TRUTH_H
#define TRUTH_H

#ifdef __cplusplus
#define _Thread_local thread_local
#endif

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline, noclone))
#define ALWAYS_INLINE static inline __attribute__((always_inline))

// About a millisecond of spinning: calls this long make the clocks around them negligible.
#define UNIT_ITERATIONS 600000ull

static inline uint64_t clock_ns(clockid_t id) {
	struct timespec now;
	clock_gettime(id, &now);
	return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static inline uint64_t thread_cpu_ns(void) { return clock_ns(CLOCK_THREAD_CPUTIME_ID); }
static inline uint64_t wall_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

// A number from 3/4 to 5/4 of its argument. A loop whose period is a multiple of the sampling
// period would be seen at the same few points again and again; this one never is.
ALWAYS_INLINE uint64_t jittered(uint64_t iterations) {
	static _Thread_local uint64_t state = 88172645463325252ull; // Marsaglia's xorshift64
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return iterations * 3 / 4 + state % (iterations / 2);
}

// Spins inside its caller: samples land in the caller's own code. The counter lives in memory, so
// that the caller has a stack frame: compilers give leaf functions without one no frame pointer
// either, whatever their flags.
ALWAYS_INLINE void spin(uint64_t units) {
	for (volatile uint64_t left = jittered(units * UNIT_ITERATIONS); left; left--)
		;
}

// CPU time of one call, added to a counter.
#define TIMED(counter, call)                                                                       \
	do {                                                                                       \
		uint64_t start_ns_ = thread_cpu_ns();                                              \
		call;                                                                              \
		(counter) += thread_cpu_ns() - start_ns_;                                          \
	} while (0)

static inline uint64_t deadline_ns(int argc, char **argv) {
	double seconds = argc > 1 ? atof(argv[1]) : 0;
	if (seconds <= 0) {
		fprintf(stderr, "usage: %s SECONDS\n", argv[0]);
		exit(2);
	}
	return wall_ns() + (uint64_t)(seconds * 1e9);
}

struct truth {
	const char *name;
	uint64_t cpu_ns;
};

static inline uint64_t timeval_ns(struct timeval t) {
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_usec * 1000ull;
}

static inline void print_truth(const struct truth *truths, int count) {
	struct rusage usage;
	getrusage(RUSAGE_SELF, &usage);
	printf("{\"cpu_ns\": {");
	for (int i = 0; i < count; i++)
		printf("%s\"%s\": %llu", i ? ", " : "", truths[i].name,
		       (unsigned long long)truths[i].cpu_ns);
	printf("}, \"user_ns\": %llu, \"system_ns\": %llu}\n",
	       (unsigned long long)timeval_ns(usage.ru_utime),
	       (unsigned long long)timeval_ns(usage.ru_stime));
	fflush(stdout);
}

#endif
