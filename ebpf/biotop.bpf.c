// SPDX-License-Identifier: GPL-2.0
/* Completed block I/O by process, disk and direction. */
#include "block.h"
#include "tally.h"

/* Bit N: requests of operation N (REQ_OP_READ is 0, REQ_OP_WRITE is 1) are asked for. */
const volatile __u64 wanted_operations = ~0ULL;

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
	__u64 operation = issued->flags & REQ_OP_MASK;
	if (wanted_operations >> (operation & 63) & 1) {
		struct report_key key = {
			.id = issued->owner.tgid,
			.detail = operation << 32 | issued->disk,
		};
		__builtin_memcpy(key.comm, issued->owner.comm, sizeof(key.comm));
		add_to_tally(&key, 1, issued->bytes, bpf_ktime_get_ns() - issued->start_ns);
	}
	forget_issue(issued);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
