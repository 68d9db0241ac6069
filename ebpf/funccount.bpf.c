// SPDX-License-Identifier: GPL-2.0
/* Calls per function. What was called is the attachment's cookie (5.15). */
#include "filter.h"
#include "tally.h"

static __always_inline int count_call(void *context)
{
	if (!current_wanted())
		return 0;
	struct report_key key = {.id = bpf_get_attach_cookie(context)};
	add_to_tally(&key, 1, 0, 0);
	return 0;
}

SEC("kprobe")
int on_kernel_function(void *context)
{
	return count_call(context);
}

SEC("uprobe")
int on_function(void *context)
{
	return count_call(context);
}

SEC("tracepoint")
int on_tracepoint(void *context)
{
	return count_call(context);
}

char LICENSE[] SEC("license") = "GPL";
