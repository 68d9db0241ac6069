// SPDX-License-Identifier: GPL-2.0
/* Calls per function. What was called is the attachment's cookie (5.15). Before, a kernel function
 * is told by its address; of user functions and tracepoints one alone is counted. */
#include "filter.h"
#include "tally.h"

static __always_inline int count_call(__u32 id, __u64 address)
{
	if (!current_wanted())
		return 0;
	struct report_key key = {.id = id, .detail = address};
	add_to_tally(&key, 1, 0, 0);
	return 0;
}

/* For kprobe and kprobe.multi. */
SEC("kprobe")
int kernel_function_with_cookie(void *context)
{
	return count_call(bpf_get_attach_cookie(context), 0);
}

/* On x86 the instruction pointer stands behind the breakpoint's one byte, also where ftrace or a
 * jump took its place. */
SEC("kprobe")
int kernel_function(struct pt_regs *regs)
{
	return count_call(0, regs->ip - 1);
}

SEC("uprobe")
int user_function_with_cookie(void *context)
{
	return count_call(bpf_get_attach_cookie(context), 0);
}

SEC("uprobe")
int user_function(void)
{
	return count_call(0, 0);
}

SEC("tracepoint")
int event_with_cookie(void *context)
{
	return count_call(bpf_get_attach_cookie(context), 0);
}

SEC("tracepoint")
int event(void)
{
	return count_call(0, 0);
}

char LICENSE[] SEC("license") = "GPL";
