// SPDX-License-Identifier: GPL-2.0
/* CPU samples, counted by stack in the kernel.
 *
 * A sample's way: perf event → filter → kernel and user stack into stack maps → count by key.
 * Whatever does not fit (a stack-map collision, a full map, a bucket that is locked because the
 * event is an NMI) sends the whole sample through a ring buffer instead, so that only a full ring
 * loses one, and that is counted. */
#include "cgroup.h"
#include "profile_abi.h"
#include "unwind.h"

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
	__type(key, __u64);
	__type(value, struct short_stack);
} short_stacks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct deep_stack);
} deep_stacks SEC(".maps");

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

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} snapshots SEC(".maps");

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

/* What one sample needs that the BPF stack is too small for. The walk is a global function's
 * argument, so it is a map value of its own; the rest is used one at a time. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct unwind_state);
} walks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct whole_sample);
} whole_scratch SEC(".maps");

static const __u32 zero = 0;

/* Why a sample could not be counted in the maps. */
enum misfit { FITS, COLLISION, MAP_FULL, MAP_BUSY };

/* One sample on its way. */
struct sample_context {
	struct bpf_perf_event_data *ctx;
	struct counters *stats;
	/* The walk by CFI; NULL when user stacks are walked by frame pointers. */
	struct unwind_state *walk;
	__u64 now;
	bool kernel;
	bool user;
};

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

/* ---- samples that travel ---- */

/* The kernel stack's bytes, 0 without one. */
static __always_inline __u32 copy_kernel_stack(struct bpf_perf_event_data *ctx, bool wanted,
					       __u64 *frames)
{
	long bytes = wanted ? bpf_get_stack(ctx, frames, MAX_FRAMES * sizeof(__u64), 0) : 0;
	return bytes < 0 || bytes > (long)(MAX_FRAMES * sizeof(__u64)) ? 0 : (__u32)bytes;
}

static __always_inline void count_rescue(struct counters *stats, enum misfit why)
{
	if (why == COLLISION)
		stats->rescued_collision++;
	else if (why == MAP_BUSY)
		stats->rescued_map_busy++;
	else
		stats->rescued_map_full++;
}

static __always_inline void send_whole(const struct sample_context *sample,
				       const struct sample_key *key, enum misfit why)
{
	struct whole_sample *whole = bpf_map_lookup_elem(&whole_scratch, &zero);
	if (!whole)
		return;
	__u32 kernel_bytes = copy_kernel_stack(sample->ctx, sample->kernel, whole->frames);
	if (kernel_bytes > MAX_FRAMES * sizeof(__u64))
		return;
	void *user_frames = (void *)whole->frames + kernel_bytes;
	__u32 user_bytes = 0;
	whole->outcome = 0;
	if (sample->walk) {
		user_bytes = (sample->walk->count & (2 * UNWIND_FRAMES_MAX - 1)) * sizeof(__u64);
		if (user_bytes > UNWIND_FRAMES_MAX * sizeof(__u64))
			user_bytes = UNWIND_FRAMES_MAX * sizeof(__u64);
		bpf_probe_read_kernel(user_frames, user_bytes, sample->walk->addresses);
		whole->outcome = sample->walk->outcome;
	} else if (sample->user) {
		long bytes = bpf_get_stack(sample->ctx, user_frames, MAX_FRAMES * sizeof(__u64),
					   BPF_F_USER_STACK);
		user_bytes = bytes < 0 ? 0 : (__u32)bytes;
	}
	whole->key = *key;
	whole->kernel_frames = kernel_bytes / sizeof(__u64);
	whole->user_frames = user_bytes / sizeof(__u64);
	whole->time_ns = sample->now;
	__u64 size = __builtin_offsetof(struct whole_sample, frames) + kernel_bytes + user_bytes;
	if (size > sizeof(*whole))
		return;
	if (bpf_ringbuf_output(&whole_samples, whole, size, BPF_RB_NO_WAKEUP))
		sample->stats->lost_ring_full++;
	else
		count_rescue(sample->stats, why);
}

/* Page by page, as nothing tells where a stack ends. Pages that were never touched cannot be read
 * and are left as zeros, which is what they hold. Gives the bytes up to the last page read. */
static __noinline __u32 copy_user_stack(struct stack_snapshot *snapshot)
{
	unsigned char *to = snapshot->stack;
	__u64 from = snapshot->registers.sp;
	__u32 at = 0, copied = 0;

	for (int page = 0; page < SNAPSHOT_STACK_PAGES; page++) {
		__u32 bytes = 4096 - (from & 4095);
		if (at > (SNAPSHOT_STACK_PAGES - 1) * 4096)
			break;
		if (!bpf_probe_read_user(to + at, bytes, (void *)from))
			copied = at + bytes;
		at += bytes;
		from += bytes;
	}
	return copied;
}

/* The walk needs what is not loaded yet: it can be done later, from the stack's bytes. */
static __always_inline bool send_snapshot(const struct sample_context *sample,
					  const struct sample_key *key)
{
	/* In place: a copy of so much would be the dearest part of all. */
	struct stack_snapshot *snapshot =
		bpf_ringbuf_reserve(&snapshots, sizeof(struct stack_snapshot), 0);
	if (!snapshot) {
		sample->stats->snapshots_unsent++;
		return false;
	}
	snapshot->key = *key;
	snapshot->time_ns = sample->now;
	snapshot->start_stack = start_of_stack();
	snapshot->registers = sample->walk->registers;
	snapshot->kernel_frames =
		copy_kernel_stack(sample->ctx, sample->kernel, snapshot->frames) / sizeof(__u64);
	snapshot->stack_bytes = copy_user_stack(snapshot);
	bpf_ringbuf_submit(snapshot, BPF_RB_NO_WAKEUP);
	sample->stats->snapshots++;
	return true;
}

static __always_inline bool can_walk_later(__u32 outcome)
{
	return outcome == UNWIND_UNKNOWN_PROCESS || outcome == UNWIND_UNMAPPED ||
	       outcome == UNWIND_NO_TABLE;
}

/* ---- samples that are counted ---- */

/* Whether a stack that is kept under the same hash is this one. */
static __always_inline bool is_same_stack(const struct unwind_state *walk, const __u32 outcome,
					  const __u32 count, const __u64 *addresses,
					  const __u32 frames_max)
{
	if (outcome != walk->outcome || count != walk->count)
		return false;
	for (__u32 frame = 0; frame < frames_max; frame++) {
		if (frame >= count)
			return true;
		if (addresses[frame] != walk->addresses[frame])
			return false;
	}
	return true;
}

__noinline int is_same_short_stack(struct unwind_state *walk, struct short_stack *kept)
{
	if (!walk || !kept)
		return 0;
	return is_same_stack(walk, kept->outcome, kept->count, kept->addresses, SHORT_FRAMES);
}

__noinline int is_same_deep_stack(struct unwind_state *walk, struct deep_stack *kept)
{
	if (!walk || !kept)
		return 0;
	return is_same_stack(walk, kept->outcome, kept->count, kept->addresses,
			     UNWIND_FRAMES_MAX);
}

/* Puts the walked stack where its hash says, unless it is there. */
static __always_inline enum misfit keep_walked_stack(struct unwind_state *walk,
						     struct sample_key *key)
{
	__u64 hash = hash_word(walk->hash, walk->outcome);
	bool is_short = walk->count <= SHORT_FRAMES;
	long error;

	key->user_stack = hash;
	if (is_short) {
		key->user_stack_place = USER_STACK_SHORT;
		struct short_stack *kept = bpf_map_lookup_elem(&short_stacks, &hash);
		if (kept)
			return is_same_short_stack(walk, kept) ? FITS : COLLISION;
		error = bpf_map_update_elem(&short_stacks, &hash, &walk->outcome, BPF_NOEXIST);
		kept = error == -EEXIST ? bpf_map_lookup_elem(&short_stacks, &hash) : NULL;
		if (kept)
			return is_same_short_stack(walk, kept) ? FITS : COLLISION;
	} else {
		key->user_stack_place = USER_STACK_DEEP;
		struct deep_stack *kept = bpf_map_lookup_elem(&deep_stacks, &hash);
		if (kept)
			return is_same_deep_stack(walk, kept) ? FITS : COLLISION;
		error = bpf_map_update_elem(&deep_stacks, &hash, &walk->outcome, BPF_NOEXIST);
		kept = error == -EEXIST ? bpf_map_lookup_elem(&deep_stacks, &hash) : NULL;
		if (kept)
			return is_same_deep_stack(walk, kept) ? FITS : COLLISION;
	}
	return error ? misfit_of(error) : FITS;
}

static __always_inline enum misfit keep_kernel_stack(const struct sample_context *sample,
						     struct sample_key *key)
{
	long id = bpf_get_stackid(sample->ctx, &kernel_stacks, 0);
	if (id >= 0)
		key->kernel_stack_id = (__s32)id;
	else if (id == -EFAULT)
		sample->stats->no_kernel_stack++;
	else
		return misfit_of(id);
	return FITS;
}

static __always_inline enum misfit keep_user_stack(const struct sample_context *sample,
						   struct sample_key *key)
{
	if (sample->walk)
		return keep_walked_stack(sample->walk, key);
	long id = bpf_get_stackid(sample->ctx, &user_stacks, BPF_F_USER_STACK);
	if (id >= 0) {
		key->user_stack_place = USER_STACK_BY_ID;
		key->user_stack = id;
	} else if (id == -EFAULT) {
		sample->stats->no_user_stack++;
	} else {
		return misfit_of(id);
	}
	return FITS;
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

/* ---- which samples ---- */

static __always_inline bool is_wanted(__u32 tgid)
{
	if (filter_processes && !bpf_map_lookup_elem(&targets, &tgid))
		return false;
	if (filter_cgroup_id && !is_current_in_cgroup(filter_cgroup_id, filter_cgroup_level))
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

static __always_inline int take_sample(struct bpf_perf_event_data *ctx, bool by_cfi)
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
	struct sample_context sample = {
		.ctx = ctx,
		.stats = stats,
		.now = bpf_ktime_get_ns(),
		.kernel = want_kernel_stacks && !is_user_mode(&ctx->regs),
		.user = want_user_stacks && tid && !(task_flags & PF_KTHREAD),
	};
	if (!sample.kernel && !sample.user) {
		stats->filtered++;
		return 0;
	}

	struct sample_key key = {
		.tgid = tgid,
		.tid = per_thread ? tid : 0,
		.cpu = per_cpu ? bpf_get_smp_processor_id() : 0,
		.kernel_stack_id = NO_STACK,
	};
	bpf_get_current_comm(key.comm, sizeof(key.comm));
	if (sample.user) {
		identify_image(task, &key);
		if (by_cfi) {
			sample.walk = bpf_map_lookup_elem(&walks, &zero);
			if (!sample.walk)
				return 0;
			unwind_user(ctx, sample.walk);
			if (can_walk_later(sample.walk->outcome) && send_snapshot(&sample, &key))
				return 0;
		}
	}

	enum misfit why = FITS;
	if (sample.kernel)
		why = keep_kernel_stack(&sample, &key);
	if (sample.user && why == FITS)
		why = keep_user_stack(&sample, &key);
	if (why == FITS)
		why = count_sample(&key, sample.now);
	if (why == FITS)
		stats->counted++;
	else
		send_whole(&sample, &key, why);
	return 0;
}

/* Twins: a kernel that cannot run the walk by CFI (below 5.15) verifies only the first. */
SEC("perf_event")
int sample(struct bpf_perf_event_data *ctx)
{
	return take_sample(ctx, false);
}

SEC("perf_event")
int sample_with_cfi(struct bpf_perf_event_data *ctx)
{
	return take_sample(ctx, true);
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
