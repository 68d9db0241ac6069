/* SPDX-License-Identifier: GPL-2.0 */
/* Block requests from issue to completion.
 *
 * Requests are told apart by their address, not by device and sector: flushes all have sector 0.
 * The disk, the size and the flags are saved at issue, since a completed request has no bytes
 * left. Completion is block_rq_complete, accepted when it covers all that is left of the request:
 * block_io_done is silent on a disk whose queue/iostats is 0. */
#pragma once
#include "filter.h"
#include "report.h"

#define REQ_OP_MASK 0xff
#define MINORBITS 20

/* Set by the loader. */
const volatile bool owners_known = false;
const volatile bool with_queue_time = false;
const volatile bool filter_disk = false;
const volatile __u32 wanted_disk = 0;

struct gendisk {
	int major;
	int first_minor;
} __core;

struct request_queue {
	/* 5.17 and later */
	struct gendisk *disk;
} __core;

struct bio;

struct request {
	struct request_queue *q;
	unsigned int cmd_flags;
	unsigned int __data_len;
	__u64 start_time_ns;
	struct bio *bio;
} __core;

struct request___before_5_17 {
	struct gendisk *rq_disk;
} __core;

struct owner {
	__u32 tgid;
	bool wanted;
	char comm[TASK_COMM_LEN];
};

struct issued {
	__u64 start_ns;
	__u32 disk;
	__u32 flags;
	__u32 bytes;
	struct owner owner;
};

/* By address of the request; by that of its first bio where block_getrq tells the owner. Least
 * recently used entries go first, so a request that never completes cannot fill the map. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct owner);
} owners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct issued);
} requests SEC(".maps");

static __always_inline void current_owner(struct owner *owner)
{
	owner->tgid = bpf_get_current_pid_tgid() >> 32;
	owner->wanted = current_wanted();
	bpf_get_current_comm(owner->comm, sizeof(owner->comm));
}

/* The task that asks for the I/O; the issue may happen in a worker. */
static __always_inline void remember_owner(const void *request_or_bio)
{
	__u64 address = (__u64)request_or_bio;
	struct owner owner = {};
	current_owner(&owner);
	if (bpf_map_update_elem(&owners, &address, &owner, BPF_ANY))
		count_loss(start_map_full);
}

static __always_inline void find_owner(const struct request *rq, struct owner *owner)
{
	__u64 address = (__u64)rq;
	struct owner *known = bpf_map_lookup_elem(&owners, &address);
	if (!known) {
		address = (__u64)rq->bio;
		known = address ? bpf_map_lookup_elem(&owners, &address) : NULL;
	}
	if (!known) {
		current_owner(owner);
		return;
	}
	*owner = *known;
	bpf_map_delete_elem(&owners, &address);
}

static __always_inline __u32 disk_of(const struct request *rq)
{
	const struct request___before_5_17 *older = (const void *)rq;
	const struct gendisk *disk =
		core_field_exists(older->rq_disk) ? older->rq_disk : rq->q->disk;
	return disk ? ((__u32)disk->major << MINORBITS) | (__u32)disk->first_minor : 0;
}

/* Fills in what is known at issue; false when the request is not asked for. */
static __always_inline bool describe_issue(const struct request *rq, struct issued *issued)
{
	issued->disk = disk_of(rq);
	if (filter_disk && issued->disk != wanted_disk)
		return false;
	issued->start_ns = bpf_ktime_get_ns();
	/* 0 where the queue keeps no times (queue/iostats is 0). */
	if (with_queue_time && rq->start_time_ns)
		issued->start_ns = rq->start_time_ns;
	issued->flags = rq->cmd_flags;
	issued->bytes = rq->__data_len;
	if (!owners_known)
		return true;
	find_owner(rq, &issued->owner);
	return issued->owner.wanted;
}

/* A request's entry stays for its next use: drivers allocate their requests once, and writing in
 * place costs half of insertion and removal. start_ns is 0 while it is not with the driver. */
static __always_inline void remember_issue(const struct request *rq)
{
	__u64 address = (__u64)rq;
	struct issued *known = bpf_map_lookup_elem(&requests, &address);
	if (known) {
		if (!describe_issue(rq, known))
			known->start_ns = 0;
		return;
	}
	struct issued issued = {};
	if (!describe_issue(rq, &issued))
		return;
	if (bpf_map_update_elem(&requests, &address, &issued, BPF_ANY))
		count_loss(start_map_full);
}

/* The issue that a completion ends, or NULL; forget_issue must follow. */
static __always_inline struct issued *completed_issue(const struct request *rq,
						      unsigned int nr_bytes)
{
	if (nr_bytes < rq->__data_len)
		return NULL;
	__u64 address = (__u64)rq;
	struct issued *issued = bpf_map_lookup_elem(&requests, &address);
	return issued && issued->start_ns ? issued : NULL;
}

static __always_inline void forget_issue(struct issued *issued)
{
	issued->start_ns = 0;
}

/* Every tool on requests has these entry points for the owner.
 * block_io_start(rq): 6.5 and later. block_getrq(bio): 5.11 to 6.4; block_getrq(q, bio[, rw])
 * before, and in 5.10.137 and later of that series without q. */
#define OWNER_PROGRAMS                                                                            \
	SEC("tp_btf/block_io_start") int io_start(__u64 *args)                                    \
	{                                                                                         \
		remember_owner((void *)args[0]);                                                  \
		return 0;                                                                         \
	}                                                                                         \
	SEC("tp_btf/block_getrq") int getrq(__u64 *args)                                          \
	{                                                                                         \
		remember_owner((void *)args[0]);                                                  \
		return 0;                                                                         \
	}                                                                                         \
	SEC("tp_btf/block_getrq") int getrq_with_queue(__u64 *args)                               \
	{                                                                                         \
		if (args[1])                                                                      \
			remember_owner((void *)args[1]);                                          \
		return 0;                                                                         \
	}
