// SPDX-License-Identifier: GPL-2.0
/* CPU samples, counted by stack in the kernel.
 *
 * A sample's way: perf event → filter → kernel and user stack into stack maps → count by key.
 * Whatever does not fit (a stack-map collision, a full map, a bucket that is locked because the
 * event is an NMI) sends the whole sample through a ring buffer instead, so that only a full ring
 * loses one, and that is counted. */
#include "profile_abi.h"

/* Set by the loader before the object is loaded. */
const volatile bool want_kernel_stacks = true;
const volatile bool want_user_stacks = true;
const volatile bool per_thread = false;
const volatile bool per_cpu = false;
const volatile bool include_idle = false;
const volatile bool filter_processes = false;
const volatile bool inherit = true;
const volatile __u64 filter_cgroup_id = 0;
const volatile __u32 filter_cgroup_level = 0;

/* The loader sizes the maps: by CPUs, rate and duration. */
struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, 16384);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, MAX_FRAMES * sizeof(__u64));
} kernel_stacks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, 16384);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, MAX_FRAMES * sizeof(__u64));
} user_stacks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct sample_key);
	__type(value, struct sample_count);
} samples SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} whole_samples SEC(".maps");

/* Thread group ids whose samples count. The kernel keeps it: forks join, exits leave. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, __u8);
} targets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counters);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct whole_sample);
} scratch SEC(".maps");

static const __u32 zero = 0;

/* Why a sample could not be counted in the maps. */
enum misfit { FITS, COLLISION, MAP_FULL, MAP_BUSY };

static __always_inline enum misfit misfit_of(long error)
{
	switch (error) {
	case -EEXIST:
		return COLLISION;
	case -EBUSY:
		return MAP_BUSY;
	default:
		return MAP_FULL;
	}
}

static __always_inline void send_whole(void *ctx, const struct sample_key *key, bool kernel,
				       bool user, __u64 now, enum misfit why,
				       struct counters *stats)
{
	struct whole_sample *whole = bpf_map_lookup_elem(&scratch, &zero);
	if (!whole)
		return;
	const long side_bytes = MAX_FRAMES * sizeof(__u64);
	long kernel_bytes = 0, user_bytes = 0;
	if (kernel)
		kernel_bytes = bpf_get_stack(ctx, whole->frames, side_bytes, 0);
	if (kernel_bytes < 0)
		kernel_bytes = 0;
	if (kernel_bytes > side_bytes)
		return;
	if (user)
		user_bytes = bpf_get_stack(ctx, (void *)whole->frames + kernel_bytes,
					   side_bytes, BPF_F_USER_STACK);
	if (user_bytes < 0)
		user_bytes = 0;
	whole->key = *key;
	whole->kernel_frames = kernel_bytes / sizeof(__u64);
	whole->user_frames = user_bytes / sizeof(__u64);
	whole->time_ns = now;
	__u64 size = __builtin_offsetof(struct whole_sample, frames) + kernel_bytes + user_bytes;
	if (size > sizeof(*whole))
		return;
	if (bpf_ringbuf_output(&whole_samples, whole, size, BPF_RB_NO_WAKEUP)) {
		stats->lost_ring_full++;
		return;
	}
	if (why == COLLISION)
		stats->rescued_collision++;
	else if (why == MAP_BUSY)
		stats->rescued_map_busy++;
	else
		stats->rescued_map_full++;
}

static __always_inline enum misfit count_sample(const struct sample_key *key, __u64 now)
{
	struct sample_count *seen = bpf_map_lookup_elem(&samples, key);
	if (!seen) {
		const struct sample_count first = {.count = 1, .first_ns = now, .last_ns = now};
		long error = bpf_map_update_elem(&samples, key, &first, BPF_NOEXIST);
		if (!error)
			return FITS;
		if (error != -EEXIST)
			return misfit_of(error);
		/* Another CPU was first. */
		seen = bpf_map_lookup_elem(&samples, key);
		if (!seen)
			return MAP_BUSY;
	}
	__sync_fetch_and_add(&seen->count, 1);
	seen->last_ns = now;
	return FITS;
}

static __always_inline bool is_wanted(__u32 tgid)
{
	if (filter_processes && !bpf_map_lookup_elem(&targets, &tgid))
		return false;
	if (filter_cgroup_id &&
	    bpf_get_current_ancestor_cgroup_id(filter_cgroup_level) != filter_cgroup_id)
		return false;
	return true;
}

/* Which address space this is: a process id is reused, and an exec replaces what is under it. */
static __always_inline void identify_image(struct task_struct *task, struct sample_key *key)
{
	struct task_struct *leader = NULL;
	__u64 start_time = 0;
	core_read(&leader, &task->group_leader);
	if (leader)
		core_read(&start_time, &leader->start_time);
	core_read(&key->exec_id, &task->self_exec_id);
	key->start_time_low = (__u32)start_time;
}

SEC("perf_event")
int sample(struct bpf_perf_event_data *ctx)
{
	struct counters *stats = bpf_map_lookup_elem(&counters, &zero);
	if (!stats)
		return 0;
	stats->taken++;

	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u32 tgid = pid_tgid >> 32, tid = (__u32)pid_tgid;
	if (!tid && !include_idle) {
		stats->idle++;
		return 0;
	}
	if (!is_wanted(tgid)) {
		stats->filtered++;
		return 0;
	}

	struct task_struct *task = (void *)bpf_get_current_task();
	__u32 task_flags = 0;
	core_read(&task_flags, &task->flags);
	bool in_user_mode = is_user_mode(&ctx->regs);
	bool kernel = want_kernel_stacks && !in_user_mode;
	bool user = want_user_stacks && tid && !(task_flags & PF_KTHREAD);
	if (!kernel && !user) {
		stats->filtered++;
		return 0;
	}

	__u64 now = bpf_ktime_get_ns();
	struct sample_key key = {
		.tgid = tgid,
		.tid = per_thread ? tid : 0,
		.cpu = per_cpu ? bpf_get_smp_processor_id() : 0,
		.kernel_stack_id = NO_STACK,
		.user_stack_id = NO_STACK,
	};
	bpf_get_current_comm(key.comm, sizeof(key.comm));
	if (user)
		identify_image(task, &key);

	enum misfit why = FITS;
	if (kernel) {
		long id = bpf_get_stackid(ctx, &kernel_stacks, 0);
		if (id >= 0)
			key.kernel_stack_id = (__s32)id;
		else if (id == -EFAULT)
			stats->no_kernel_stack++;
		else
			why = misfit_of(id);
	}
	if (user && why == FITS) {
		long id = bpf_get_stackid(ctx, &user_stacks, BPF_F_USER_STACK);
		if (id >= 0)
			key.user_stack_id = (__s32)id;
		else if (id == -EFAULT)
			stats->no_user_stack++;
		else
			why = misfit_of(id);
	}
	if (why == FITS)
		why = count_sample(&key, now);
	if (why == FITS)
		stats->counted++;
	else
		send_whole(ctx, &key, kernel, user, now, why, stats);
	return 0;
}

/* include/trace/events/sched.h: sched_process_fork(parent, child); the same on 5.10 to 7.2. */
SEC("tp_btf/sched_process_fork")
int follow_fork(__u64 *args)
{
	struct task_struct *parent = (void *)args[0], *child = (void *)args[1];
	__u32 parent_tgid = parent->tgid, child_tgid = child->tgid;
	/* A new thread shares its process's entry. */
	if (!inherit || parent_tgid == child_tgid)
		return 0;
	if (!bpf_map_lookup_elem(&targets, &parent_tgid))
		return 0;
	const __u8 yes = 1;
	if (bpf_map_update_elem(&targets, &child_tgid, &yes, BPF_ANY)) {
		struct counters *stats = bpf_map_lookup_elem(&counters, &zero);
		if (stats)
			stats->untracked_children++;
	}
	return 0;
}

/* sched_process_exit(task[, group_dead since 6.16]). The process is gone with its last thread,
 * not with its leader; the id must not count for whoever gets it next. */
SEC("tp_btf/sched_process_exit")
int follow_exit(__u64 *args)
{
	struct task_struct *task = (void *)args[0];
	__u32 tgid = task->tgid;
	if (task->signal->live.counter == 0)
		bpf_map_delete_elem(&targets, &tgid);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
