/* SPDX-License-Identifier: GPL-2.0 */
/* Which tasks a tool looks at: `-p` and `--cgroup`, the same for every tool. */
#pragma once
#include "cgroup.h"

/* Set by the loader before the object is loaded. */
const volatile bool filter_processes = false;
const volatile __u64 filter_cgroup_id = 0;
const volatile __u32 filter_cgroup_level = 0;

/* The thread group ids of `-p`. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u8);
} targets SEC(".maps");

static __always_inline bool process_wanted(__u32 tgid)
{
	return !filter_processes || bpf_map_lookup_elem(&targets, &tgid);
}

/* Whether the current task is asked for. */
static __always_inline bool current_wanted(void)
{
	if (!process_wanted(bpf_get_current_pid_tgid() >> 32))
		return false;
	return !filter_cgroup_id || is_current_in_cgroup(filter_cgroup_id, filter_cgroup_level);
}

/* Whether another task than the current one is asked for. */
static __always_inline bool task_wanted(const struct task_struct *task, __u32 tgid)
{
	if (!process_wanted(tgid))
		return false;
	return !filter_cgroup_id || is_task_in_cgroup(task, filter_cgroup_id, filter_cgroup_level);
}
