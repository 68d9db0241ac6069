// SPDX-License-Identifier: GPL-2.0
/* Kernel allocations by command: count, bytes asked for, bytes taken from the allocator. */
#include "filter.h"
#include "tally.h"

static __always_inline int count_allocation(__u64 address, __u64 requested, __u64 allocated)
{
	/* A failed allocation takes nothing. */
	if (!address || !current_wanted())
		return 0;
	struct report_key key = {};
	bpf_get_current_comm(key.comm, sizeof(key.comm));
	add_to_tally(&key, 1, requested, allocated);
	return 0;
}

/* Not tp_btf: before 7.2 the verifier takes no `const void *` from a tracepoint's typed arguments, and
 * `ptr` is one.
 *
 * kmalloc(call_site, ptr, bytes_req, bytes_alloc, gfp_flags[, node since 6.1]). */
SEC("raw_tp/kmalloc")
int kmalloc(__u64 *args)
{
	return count_allocation(args[1], args[2], args[3]);
}

/* kmalloc(call_site, ptr, cache, bytes_req, bytes_alloc, gfp_flags): 6.0. */
SEC("raw_tp/kmalloc")
int kmalloc_with_cache(__u64 *args)
{
	return count_allocation(args[1], args[3], args[4]);
}

/* kmalloc_node(call_site, ptr, bytes_req, bytes_alloc, gfp_flags, node): before 6.0; part of
 * kmalloc since 6.1. */
SEC("raw_tp/kmalloc_node")
int kmalloc_node(__u64 *args)
{
	return count_allocation(args[1], args[2], args[3]);
}

/* kmalloc_node(call_site, ptr, cache, bytes_req, bytes_alloc, gfp_flags, node): 6.0. */
SEC("raw_tp/kmalloc_node")
int kmalloc_node_with_cache(__u64 *args)
{
	return count_allocation(args[1], args[3], args[4]);
}

char LICENSE[] SEC("license") = "GPL";
