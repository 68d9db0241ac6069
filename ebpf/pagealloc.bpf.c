// SPDX-License-Identifier: GPL-2.0
/* Page allocations by command: how often, and how many pages. */
#include "filter.h"
#include "tally.h"

/* mm_page_alloc(page, order, gfp_flags, migratetype): 5.10 to 7.2. */
SEC("tp_btf/mm_page_alloc")
int page_alloc(__u64 *args)
{
	/* A failed allocation has no page. */
	if (!args[0] || !current_wanted())
		return 0;
	__u32 order = args[1];
	struct report_key key = {};
	bpf_get_current_comm(key.comm, sizeof(key.comm));
	add_to_tally(&key, 1, 1ULL << (order & 31), 0);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
