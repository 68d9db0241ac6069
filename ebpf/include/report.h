/* SPDX-License-Identifier: GPL-2.0 */
/* What every tool says across the kernel boundary: keys, tallies, histograms, losses. The other
 * side is src/tools/kernel_side.rs; a test compares the two through the objects' BTF. */
#pragma once
#include "bpf.h"
#include "kernel.h"

/* What is counted apart. Fields that a tool does not use are zero. `epoch` numbers the reports:
 * user space moves it on, waits until no program uses the old one, and then reads entries that
 * nobody changes any more. So reports lose nothing and count nothing twice. */
struct report_key {
	__u32 epoch;
	__u32 id;
	__u64 detail;
	char comm[TASK_COMM_LEN];
};

struct tally {
	__u64 count;
	__u64 amount;
	__u64 extra;
};

/* Log-linear: four slots an octave, so that log2 rows are exact sums of slots and percentiles
 * are within an eighth. Values below 4 have a slot each. */
#define SLOTS_PER_OCTAVE_LOG2 2
#define SLOTS_PER_OCTAVE (1 << SLOTS_PER_OCTAVE_LOG2)
#define OCTAVES 40
#define HISTOGRAM_SLOTS (OCTAVES * SLOTS_PER_OCTAVE)

struct histogram {
	__u64 sum;
	__u64 max;
	__u64 slots[HISTOGRAM_SLOTS];
};

/* One per CPU; nothing is lost without being counted here. */
struct losses {
	/* No room to remember when something began. */
	__u64 start_map_full;
	/* No room for one more key in the report. */
	__u64 report_map_full;
	/* The ring of events was full. */
	__u64 ring_full;
	/* An end whose beginning was not seen. */
	__u64 end_without_start;
	/* Something between two events must have happened, and the kernel did not report it. */
	__u64 not_reported;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} epoch SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct losses);
} losses SEC(".maps");

static const __u32 first = 0;

#define count_loss(field)                                                                         \
	do {                                                                                      \
		struct losses *lost = bpf_map_lookup_elem(&losses, &first);                       \
		if (lost)                                                                         \
			lost->field++;                                                            \
	} while (0)

static __always_inline __u32 current_epoch(void)
{
	__u32 *now = bpf_map_lookup_elem(&epoch, &first);
	return now ? *now : 0;
}
