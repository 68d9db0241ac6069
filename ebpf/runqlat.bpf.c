// SPDX-License-Identifier: GPL-2.0
/* How long tasks that can run wait for a CPU.
 *
 * A wait begins when a task wakes up, is new, or loses its CPU while it could go on; it ends when
 * it gets one. Preempted tasks could go on whatever their state says: a task may be interrupted
 * between announcing its sleep and sleeping.
 *
 * Kernels leave out a context switch now and then (6.18: one of some thousand, for perf too). Each
 * task that leaves a CPU must be the one that came before; where it is not, that is counted. */
#include "filter.h"
#include "histogram.h"

#define TASK_RUNNING 0

const volatile bool per_process = false;
const volatile bool per_thread = false;

struct task_struct___state {
	/* 5.14 and later */
	unsigned int __state;
} __core;

struct task_struct___before_5_14 {
	long state;
} __core;

/* When a thread began to wait; 0 while it does not. Its entry stays for its next wait, since writing
 * in place costs half of insertion and removal, and goes with the thread. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, __u64);
} waiting SEC(".maps");

/* The thread that runs on this CPU, plus one: 0 is not known yet, and idle tasks are thread 0. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} running SEC(".maps");

static __always_inline bool is_running(const struct task_struct *task)
{
	const struct task_struct___state *newer = (const void *)task;
	const struct task_struct___before_5_14 *older = (const void *)task;
	return (core_field_exists(newer->__state) ? newer->__state : older->state) == TASK_RUNNING;
}

static __always_inline void begin_wait(const struct task_struct *task)
{
	__u32 tid = task->pid;
	/* The idle tasks of all CPUs share 0 and never wait. */
	if (!tid || !task_wanted(task, task->tgid))
		return;
	__u64 now = bpf_ktime_get_ns();
	__u64 *since = bpf_map_lookup_elem(&waiting, &tid);
	if (since)
		*since = now;
	else if (bpf_map_update_elem(&waiting, &tid, &now, BPF_ANY))
		count_loss(start_map_full);
}

static __always_inline void end_wait(const struct task_struct *task)
{
	__u32 tid = task->pid;
	if (!tid)
		return;
	__u64 *since = bpf_map_lookup_elem(&waiting, &tid);
	if (!since || !*since)
		return;
	__u64 waited_ns = bpf_ktime_get_ns() - *since;
	*since = 0;
	struct report_key key = {};
	if (per_process)
		key.id = task->tgid;
	else if (per_thread)
		key.id = tid;
	add_to_histogram(&key, waited_ns);
}

static __always_inline void follow_cpu(__u32 prev_tid, __u32 next_tid)
{
	__u32 *tid_plus_one = bpf_map_lookup_elem(&running, &first);
	if (!tid_plus_one)
		return;
	if (*tid_plus_one && *tid_plus_one != prev_tid + 1)
		count_loss(not_reported);
	*tid_plus_one = next_tid + 1;
}

/* sched_wakeup(p), sched_wakeup_new(p): 5.10 to 7.2. */
SEC("tp_btf/sched_wakeup")
int wakeup(__u64 *args)
{
	begin_wait((void *)args[0]);
	return 0;
}

SEC("tp_btf/sched_wakeup_new")
int wakeup_new(__u64 *args)
{
	begin_wait((void *)args[0]);
	return 0;
}

/* sched_switch(preempt, prev, next[, prev_state since 5.18]). */
SEC("tp_btf/sched_switch")
int switched(__u64 *args)
{
	bool preempted = args[0];
	const struct task_struct *prev = (void *)args[1], *next = (void *)args[2];
	follow_cpu(prev->pid, next->pid);
	if (preempted || is_running(prev))
		begin_wait(prev);
	end_wait(next);
	return 0;
}

/* sched_process_free(task): 5.10 to 7.2. Not at its exit: an exiting task may still be preempted. */
SEC("tp_btf/sched_process_free")
int freed(__u64 *args)
{
	const struct task_struct *task = (void *)args[0];
	__u32 tid = task->pid;
	bpf_map_delete_elem(&waiting, &tid);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
