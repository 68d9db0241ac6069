// SPDX-License-Identifier: GPL-2.0
/* ZIOs, the steps that ZFS' I/O is made of: created, done, and the time between, by type.
 *
 * zio_done runs again and again until a ZIO's children are done; vdev_stat_update is what it
 * calls once they are. */
#include "filter.h"
#include "histogram.h"
#include "tally.h"

/* zio_create's tenth argument, from the stack pointer at its entry: 0.8 to 2.4. */
#define TYPE_STACK_OFFSET 32

struct zio_start {
	__u64 created_ns;
	__u32 type;
};

/* Being created, by thread. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct zio_start);
} creating SEC(".maps");

/* Under way, by address. All that a group writes can be, and its parents; 10 MB. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__type(key, __u64);
	__type(value, struct zio_start);
} under_way SEC(".maps");

/* zio_create(pio, spa, txg, bp, data, lsize, psize, done, private, type, …) */
SEC("kprobe")
int create(struct pt_regs *regs)
{
	if (!current_wanted())
		return 0;
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	struct zio_start start = {.created_ns = bpf_ktime_get_ns()};
	bpf_probe_read_kernel(&start.type, sizeof(start.type),
			      (void *)(regs->sp + TYPE_STACK_OFFSET));
	if (bpf_map_update_elem(&creating, &tid, &start, BPF_ANY))
		count_loss(start_map_full);
	return 0;
}

SEC("kretprobe")
int created(struct pt_regs *regs)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	__u64 zio = regs->ax;
	struct zio_start *start = bpf_map_lookup_elem(&creating, &tid);
	if (!start)
		return 0;
	struct report_key key = {.id = start->type};
	add_to_tally(&key, 1, 0, 0);
	if (bpf_map_update_elem(&under_way, &zio, start, BPF_ANY))
		count_loss(start_map_full);
	bpf_map_delete_elem(&creating, &tid);
	return 0;
}

/* vdev_stat_update(zio, psize) */
SEC("kprobe")
int done(struct pt_regs *regs)
{
	__u64 zio = regs->di;
	struct zio_start *start = bpf_map_lookup_elem(&under_way, &zio);
	if (!start)
		return 0;
	struct report_key key = {.id = start->type};
	add_to_histogram(&key, bpf_ktime_get_ns() - start->created_ns);
	bpf_map_delete_elem(&under_way, &zio);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
