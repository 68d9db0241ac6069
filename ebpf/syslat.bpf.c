// SPDX-License-Identifier: GPL-2.0
/* System-call latency by command. */
#include "filter.h"
#include "histogram.h"

#define MAX_SYSCALLS 1024

const volatile bool filter_calls = false;

/* By number: which calls are asked for, when not all are. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_SYSCALLS);
	__type(key, __u32);
	__type(value, __u8);
} calls SEC(".maps");

struct call {
	__u64 enter_ns;
	__u32 number;
};

/* The call a thread is in. Entries stay for the thread's next call, since writing in place is
 * cheaper than insertion and removal; those of ended threads fall out of the map. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 32768);
	__type(key, __u32);
	__type(value, struct call);
} in_call SEC(".maps");

static __always_inline bool call_wanted(__u32 number)
{
	if (!filter_calls)
		return true;
	__u8 *wanted = bpf_map_lookup_elem(&calls, &number);
	return wanted && *wanted;
}

/* sys_enter(regs, id): 5.10 to 7.2. */
SEC("tp_btf/sys_enter")
int enter(__u64 *args)
{
	__u32 number = args[1], tid = (__u32)bpf_get_current_pid_tgid();
	if (!call_wanted(number) || !current_wanted())
		return 0;
	struct call *call = bpf_map_lookup_elem(&in_call, &tid);
	if (call) {
		call->number = number;
		call->enter_ns = bpf_ktime_get_ns();
		return 0;
	}
	struct call begun = {.number = number, .enter_ns = bpf_ktime_get_ns()};
	if (bpf_map_update_elem(&in_call, &tid, &begun, BPF_ANY))
		count_loss(start_map_full);
	return 0;
}

/* sys_exit(regs, ret): 5.10 to 7.2. */
SEC("tp_btf/sys_exit")
int leave(void)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	struct call *call = bpf_map_lookup_elem(&in_call, &tid);
	if (!call || !call->enter_ns) {
		if (!filter_calls && current_wanted())
			count_loss(end_without_start);
		return 0;
	}
	struct report_key key = {};
	bpf_get_current_comm(key.comm, sizeof(key.comm));
	add_to_histogram(&key, bpf_ktime_get_ns() - call->enter_ns);
	call->enter_ns = 0;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
