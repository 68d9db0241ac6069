/* SPDX-License-Identifier: GPL-2.0 */
/* What `profile` says across the kernel boundary. The other side is src/profile/abi.rs; a test
 * compares the two through the object's BTF. */
#pragma once
#include "unwind_abi.h"

/* Frames one stack can hold: the kernel's default for kernel.perf_event_max_stack. */
#define MAX_FRAMES 127

/* No stack on this side: a sample in user mode, a kernel thread, a side not asked for. */
#define NO_STACK (-1)

/* User frames of a stack in `short_stacks`; few are deeper. */
#define SHORT_FRAMES 63
/* User stack that a snapshot holds. */
#define SNAPSHOT_STACK_PAGES 16

/* Where the user stack of a sample is. */
enum user_stack_place {
	USER_STACK_NONE = 0,
	/* `user_stacks`, by id: walked by frame pointers. */
	USER_STACK_BY_ID = 1,
	/* `short_stacks` or `deep_stacks`, by hash: walked by call frame information. */
	USER_STACK_SHORT = 2,
	USER_STACK_DEEP = 3,
};

/* Samples with equal keys are counted together. */
struct sample_key {
	__u32 tgid;
	__u32 tid;
	__u32 start_time_low;
	__u32 exec_id;
	__u32 cpu;
	__s32 kernel_stack_id;
	/* enum user_stack_place */
	__u32 user_stack_place;
	/* No hidden padding: keys are compared byte by byte. */
	__u32 reserved;
	/* Id or hash. */
	__u64 user_stack;
	char comm[TASK_COMM_LEN];
};

/* User stacks walked by CFI, by hash: the end of struct unwind_state. */
struct short_stack {
	__u32 outcome;
	__u32 count;
	__u64 addresses[SHORT_FRAMES];
};

struct deep_stack {
	__u32 outcome;
	__u32 count;
	__u64 addresses[UNWIND_FRAMES_MAX];
};

struct sample_count {
	__u64 count;
	__u64 first_ns;
	__u64 last_ns;
};

/* A sample that found no place in the maps: it travels whole. The kernel frames and the user
 * frames follow each other in `frames`; only the used part is sent. */
struct whole_sample {
	struct sample_key key;
	__u64 time_ns;
	__u32 kernel_frames;
	__u32 user_frames;
	/* enum unwind_outcome when the user stack was walked by CFI, else 0. */
	__u32 outcome;
	__u32 reserved;
	__u64 frames[MAX_FRAMES + UNWIND_FRAMES_MAX];
};

/* A sample whose user stack could not be walked here and now, because the code's table or the
 * process's mappings were not loaded yet. It takes the stack's bytes along, and user space walks
 * them when it knows. */
struct stack_snapshot {
	struct sample_key key;
	__u64 time_ns;
	__u32 kernel_frames;
	__u32 stack_bytes;
	/* mm_struct::start_stack */
	__u64 start_stack;
	struct pt_regs registers;
	__u64 frames[MAX_FRAMES];
	unsigned char stack[SNAPSHOT_STACK_PAGES * 4096];
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
	__u64 snapshots;
	__u64 snapshots_unsent;
};
