// SPDX-License-Identifier: GPL-2.0
/* How long ZFS takes to find room for a block. */
#include "filter.h"
#include "histogram.h"

/* `detail` of the report. The other side is src/tools/zfs_metaslab.rs. */
enum { ALLOCATED, FAILED };

/* When a thread began to allocate. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, __u64);
} allocating SEC(".maps");

/* metaslab_alloc, or from 2.4 on metaslab_alloc_range, which it calls. */
SEC("kprobe")
int alloc(void)
{
	if (!current_wanted())
		return 0;
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	__u64 now = bpf_ktime_get_ns();
	if (bpf_map_update_elem(&allocating, &tid, &now, BPF_ANY))
		count_loss(start_map_full);
	return 0;
}

SEC("kretprobe")
int alloc_done(struct pt_regs *regs)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	__u64 *begin_ns = bpf_map_lookup_elem(&allocating, &tid);
	if (!begin_ns)
		return 0;
	struct report_key key = {.detail = (int)regs->ax ? FAILED : ALLOCATED};
	add_to_histogram(&key, bpf_ktime_get_ns() - *begin_ns);
	bpf_map_delete_elem(&allocating, &tid);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
