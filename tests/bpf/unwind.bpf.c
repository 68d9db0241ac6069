/* SPDX-License-Identifier: GPL-2.0 */
/* The unwinder alone: every sample of one process becomes a record in a ring buffer. */
#include "unwind.h"

const volatile __u32 target_tgid = 0;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct unwind_state);
} states SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 16 << 20);
} records SEC(".maps");

SEC("perf_event")
int walk(struct bpf_perf_event_data *ctx)
{
	__u32 zero = 0;
	struct unwind_state *st;

	if (bpf_get_current_pid_tgid() >> 32 != target_tgid)
		return 0;
	st = bpf_map_lookup_elem(&states, &zero);
	if (!st)
		return 0;
	unwind_user(ctx, st);
	bpf_ringbuf_output(&records, st, sizeof(*st), 0);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
