// SPDX-License-Identifier: GPL-2.0
/* Block I/O issued, by command. */
#include "block.h"
#include "tally.h"

OWNER_PROGRAMS

static __always_inline int count_issue(const struct request *rq)
{
	struct issued issued = {};
	if (!describe_issue(rq, &issued))
		return 0;
	struct report_key key = {.detail = issued.flags & REQ_OP_MASK};
	__builtin_memcpy(key.comm, issued.owner.comm, sizeof(key.comm));
	add_to_tally(&key, 1, issued.bytes, 0);
	return 0;
}

/* block_rq_issue(rq): 5.11, and 5.10.137. */
SEC("tp_btf/block_rq_issue")
int issue(__u64 *args)
{
	return count_issue((void *)args[0]);
}

/* block_rq_issue(q, rq): before. */
SEC("tp_btf/block_rq_issue")
int issue_with_queue(__u64 *args)
{
	return count_issue((void *)args[1]);
}

char LICENSE[] SEC("license") = "GPL";
