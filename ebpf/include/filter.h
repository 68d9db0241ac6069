/* SPDX-License-Identifier: GPL-2.0 */
/* Which tasks a tool looks at: `-p` and `--cgroup`, the same for every tool. */
#pragma once
#include "kernel.h"

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

struct kernfs_node {
	__u64 id;
} __core;

struct cgroup {
	int level;
	struct kernfs_node *kn;
	/* 6.1 and later */
	struct cgroup *ancestors[0];
} __core;

/* Before 6.1. */
struct cgroup___before_6_1 {
	__u64 ancestor_ids[0];
} __core;

struct css_set {
	struct cgroup *dfl_cgrp;
} __core;

struct task_struct___cgroups {
	struct css_set *cgroups;
} __core;

static __always_inline bool process_wanted(__u32 tgid)
{
	return !filter_processes || bpf_map_lookup_elem(&targets, &tgid);
}

/* Whether the current task is asked for. */
static __always_inline bool current_wanted(void)
{
	if (!process_wanted(bpf_get_current_pid_tgid() >> 32))
		return false;
	return !filter_cgroup_id ||
	       bpf_get_current_ancestor_cgroup_id(filter_cgroup_level) == filter_cgroup_id;
}

static __always_inline __u64 ancestor_cgroup_id(const struct task_struct *task, int level)
{
	const struct task_struct___cgroups *with_cgroups = (const void *)task;
	struct css_set *set = NULL;
	struct cgroup *group = NULL, *ancestor = NULL;
	struct kernfs_node *node = NULL;
	int own_level = 0;
	__u64 id = 0;
	core_read(&set, &with_cgroups->cgroups);
	core_read(&group, &set->dfl_cgrp);
	core_read(&own_level, &group->level);
	if (level > own_level)
		return 0;
	if (core_field_exists(group->ancestors)) {
		bpf_probe_read_kernel(&ancestor, sizeof(ancestor),
				      (void *)__builtin_preserve_access_index(&group->ancestors) +
					      level * sizeof(ancestor));
		core_read(&node, &ancestor->kn);
		core_read(&id, &node->id);
		return id;
	}
	const struct cgroup___before_6_1 *older = (const void *)group;
	bpf_probe_read_kernel(&id, sizeof(id),
			      (void *)__builtin_preserve_access_index(&older->ancestor_ids) +
				      level * sizeof(id));
	return id;
}

/* Whether another task than the current one is asked for. */
static __always_inline bool task_wanted(const struct task_struct *task, __u32 tgid)
{
	if (!process_wanted(tgid))
		return false;
	return !filter_cgroup_id ||
	       ancestor_cgroup_id(task, filter_cgroup_level) == filter_cgroup_id;
}
