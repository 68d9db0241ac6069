/* SPDX-License-Identifier: GPL-2.0 */
/* What `profile` says across the kernel boundary. The other side is src/profile/abi.rs; a test
 * compares the two through the object's BTF. */
#pragma once
#include "kernel.h"

/* Frames one stack can hold: the kernel's default for kernel.perf_event_max_stack. */
#define MAX_FRAMES 127

/* No stack on this side: a sample in user mode, a kernel thread, a side not asked for. */
#define NO_STACK (-1)

/* Samples with equal keys are counted together. */
struct sample_key {
	__u32 tgid;
	__u32 tid;
	__u32 start_time_low;
	__u32 exec_id;
	__u32 cpu;
	__s32 kernel_stack_id;
	__s32 user_stack_id;
	char comm[TASK_COMM_LEN];
};

struct sample_count {
	__u64 count;
	__u64 first_ns;
	__u64 last_ns;
};

/* A sample that found no place in the maps: it travels whole. The stacks follow each other in
 * `frames`; only the used part is sent. */
struct whole_sample {
	struct sample_key key;
	__u32 kernel_frames;
	__u32 user_frames;
	__u64 time_ns;
	__u64 frames[2 * MAX_FRAMES];
};

/* One per CPU; nothing is lost without being counted here. */
struct counters {
	__u64 taken;
	__u64 idle;
	__u64 filtered;
	__u64 counted;
	__u64 rescued_collision;
	__u64 rescued_map_full;
	__u64 rescued_map_busy;
	__u64 lost_ring_full;
	__u64 no_kernel_stack;
	__u64 no_user_stack;
	__u64 untracked_children;
};
