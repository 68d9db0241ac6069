/* SPDX-License-Identifier: GPL-2.0 */
/* Is a task in a cgroup or below it?
 *
 * A cgroup carries its ancestors by level, so this reads one slot. The helper for the current task,
 * bpf_get_current_ancestor_cgroup_id, is there for tracing programs since 5.12 only. */
#pragma once
#include "kernel.h"

struct kernfs_node {
	__u64 id;
} __core;

struct cgroup {
	int level;
	struct kernfs_node *kn;
	/* 6.1 and later. */
	struct cgroup *ancestors[0];
} __core;

/* The part after ___ is not looked up: this is struct cgroup too. */
struct cgroup___before_6_1 {
	__u64 ancestor_ids[0];
} __core;

struct css_set {
	struct cgroup *dfl_cgrp;
} __core;

struct task_struct___cgroups {
	struct css_set *cgroups;
} __core;

/* The cgroup's own id, and how far below the root it is. */
static __always_inline bool is_task_in_cgroup(const struct task_struct *task, __u64 id, __u32 level)
{
	const struct task_struct___cgroups *with_cgroups = (const void *)task;
	struct css_set *set = NULL;
	struct cgroup *cgroup = NULL, *ancestor = NULL;
	struct kernfs_node *node = NULL;
	int own_level = 0;
	__u64 ancestor_id = 0;
	if (core_read(&set, &with_cgroups->cgroups) || core_read(&cgroup, &set->dfl_cgrp) ||
	    core_read(&own_level, &cgroup->level))
		return false;
	/* The array ends at the cgroup's own level. */
	if (own_level < 0 || level > (__u32)own_level)
		return false;
	if (core_field_exists(cgroup->ancestors)) {
		struct cgroup **slots =
			(void *)__builtin_preserve_access_index(&cgroup->ancestors);
		return !bpf_probe_read_kernel(&ancestor, sizeof(ancestor), slots + level) &&
		       !core_read(&node, &ancestor->kn) && !core_read(&ancestor_id, &node->id) &&
		       ancestor_id == id;
	}
	const struct cgroup___before_6_1 *older = (const void *)cgroup;
	const __u64 *ids = (void *)__builtin_preserve_access_index(&older->ancestor_ids);
	return !bpf_probe_read_kernel(&ancestor_id, sizeof(ancestor_id), ids + level) &&
	       ancestor_id == id;
}

static __always_inline bool is_current_in_cgroup(__u64 id, __u32 level)
{
	return is_task_in_cgroup((void *)bpf_get_current_task(), id, level);
}
