/* SPDX-License-Identifier: GPL-2.0 */
/* The kernel structs the programs look into: only the fields they read. CO-RE relocates each
 * access by name, so order and neighbours do not matter. */
#pragma once
#include "bpf.h"

#define TASK_COMM_LEN 16
#define PF_KTHREAD 0x00200000 /* include/linux/sched.h */

typedef struct {
	int counter;
} __core atomic_t;

struct signal_struct {
	atomic_t live;
} __core;

/* arch/x86/include/asm/mmu.h */
typedef struct {
	void *vdso;
} __core mm_context_t;

struct mm_struct {
	unsigned long task_size;
	unsigned long start_stack;
	mm_context_t context;
} __core;

struct task_struct {
	unsigned int flags;
	int pid;
	int tgid;
	struct mm_struct *mm;
	struct task_struct *group_leader;
	struct task_struct *real_parent;
	struct signal_struct *signal;
	__u64 start_time;
	/* u32 before 5.7, u64 since: the low half is all that is read. */
	__u32 self_exec_id;
	__u32 parent_exec_id;
	char comm[TASK_COMM_LEN];
} __core;

/* arch/x86/include/asm/ptrace.h; the layout is user ABI. */
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx;
	unsigned long r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax;
	unsigned long ip, cs, flags, sp, ss;
};

/* include/uapi/linux/bpf_perf_event.h */
struct bpf_perf_event_data {
	struct pt_regs regs;
	__u64 sample_period;
	__u64 addr;
};

static __always_inline bool is_user_mode(const struct pt_regs *regs)
{
	return (regs->cs & 3) == 3;
}
