// SPDX-License-Identifier: GPL-2.0
/* Block I/O latency, from issue (or from the queue) to completion. */
#include "block.h"
#include "histogram.h"

const volatile bool per_disk = false;
const volatile bool per_flags = false;

OWNER_PROGRAMS

/* block_rq_issue(rq): 5.11, and 5.10.137. */
SEC("tp_btf/block_rq_issue")
int issue(__u64 *args)
{
	remember_issue((void *)args[0]);
	return 0;
}

/* block_rq_issue(q, rq): before. */
SEC("tp_btf/block_rq_issue")
int issue_with_queue(__u64 *args)
{
	remember_issue((void *)args[1]);
	return 0;
}

/* block_rq_complete(rq, error, nr_bytes): 5.10 to 7.2. */
SEC("tp_btf/block_rq_complete")
int complete(__u64 *args)
{
	const struct request *rq = (void *)args[0];
	struct issued *issued = completed_issue(rq, args[2]);
	if (!issued)
		return 0;
	struct report_key key = {
		.id = per_disk ? issued->disk : 0,
		.detail = per_flags ? issued->flags : 0,
	};
	__u64 now = bpf_ktime_get_ns();
	if (now >= issued->start_ns)
		add_to_histogram(&key, now - issued->start_ns);
	forget_issue(issued);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
