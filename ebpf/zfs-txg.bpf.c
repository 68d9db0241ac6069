// SPDX-License-Identifier: GPL-2.0
/* Syncs of transaction groups, one by one and as a distribution. A pool's txg_sync_thread never
 * returns; spa_sync is what it calls for each. */
#include "filter.h"
#include "histogram.h"

#define POOL_NAME_LEN 64

/* The other side is src/tools/zfs_txg.rs. */
struct txg_event {
	__u64 duration_ns;
	__u64 txg;
	/* Tells pools apart; their names are cut. */
	__u64 spa;
	char pool[POOL_NAME_LEN];
};

/* Has the layout written to the object's types, for the test that compares it with the Rust side. */
const volatile struct txg_event event_layout = {};

struct sync_start {
	__u64 begin_ns;
	__u64 spa;
	__u64 txg;
};

/* By thread: each pool has its own. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct sync_start);
} syncing SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} events SEC(".maps");

/* spa_sync(spa, txg) */
SEC("kprobe")
int sync(struct pt_regs *regs)
{
	if (!current_wanted())
		return 0;
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	struct sync_start start = {
		.begin_ns = bpf_ktime_get_ns(),
		.spa = regs->di,
		.txg = regs->si,
	};
	if (bpf_map_update_elem(&syncing, &tid, &start, BPF_ANY))
		count_loss(start_map_full);
	return 0;
}

static __always_inline void send_event(const struct sync_start *start, __u64 duration_ns)
{
	struct txg_event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		count_loss(ring_full);
		return;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->duration_ns = duration_ns;
	event->txg = start->txg;
	event->spa = start->spa;
	/* The name is the struct's first member, from the first OpenZFS on Linux to 2.4. */
	bpf_probe_read_kernel(event->pool, sizeof(event->pool) - 1, (void *)start->spa);
	bpf_ringbuf_submit(event, 0);
}

SEC("kretprobe")
int synced(void)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	struct sync_start *start = bpf_map_lookup_elem(&syncing, &tid);
	if (!start)
		return 0;
	__u64 duration_ns = bpf_ktime_get_ns() - start->begin_ns;
	send_event(start, duration_ns);
	struct report_key key = {.detail = start->spa};
	add_to_histogram(&key, duration_ns);
	bpf_map_delete_elem(&syncing, &tid);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
