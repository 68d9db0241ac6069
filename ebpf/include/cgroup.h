/* SPDX-License-Identifier: GPL-2.0 */
/* Is the current task in a cgroup or below it? */
#pragma once
#include "kernel.h"

struct cgroup {
	int level;
	/* Until 6.0. */
	__u64 ancestor_ids[1];
} __core;

struct css_set {
	struct cgroup *dfl_cgrp;
} __core;

/* The part after ___ is not looked up: this is task_struct too. */
struct task_struct___cgroups {
	struct css_set *cgroups;
} __core;

/* The cgroup's own id, and how far below the root it is. Programs that sample or trace may call
 * bpf_get_current_ancestor_cgroup_id since 5.12 only. Before 6.1 a cgroup carries the ids of its
 * ancestors, by level: read those where they are, and the helper is needed only where it is. */
static __always_inline bool is_current_in_cgroup(__u64 id, __u32 level)
{
	if (!core_field_exists(((struct cgroup *)0)->ancestor_ids))
		return bpf_get_current_ancestor_cgroup_id(level) == id;

	const struct task_struct___cgroups *task = (void *)bpf_get_current_task();
	struct css_set *set = NULL;
	struct cgroup *cgroup = NULL;
	int own_level = 0;
	__u64 ancestor_id = 0;
	if (core_read(&set, &task->cgroups) || core_read(&cgroup, &set->dfl_cgrp) ||
	    core_read(&own_level, &cgroup->level))
		return false;
	/* The array ends at the cgroup's own level. */
	if (own_level < 0 || level > (__u32)own_level)
		return false;
	const __u64 *ids = __builtin_preserve_access_index(&cgroup->ancestor_ids[0]);
	if (bpf_probe_read_kernel(&ancestor_id, sizeof(ancestor_id), &ids[level]))
		return false;
	return ancestor_id == id;
}
