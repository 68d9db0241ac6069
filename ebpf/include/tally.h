/* SPDX-License-Identifier: GPL-2.0 */
/* Counting by key. */
#pragma once
#include "report.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct report_key);
	__type(value, struct tally);
} tallies SEC(".maps");

static __always_inline void add_to_tally(struct report_key *key, __u64 count, __u64 amount,
					 __u64 extra)
{
	key->epoch = current_epoch();
	struct tally *tally = bpf_map_lookup_elem(&tallies, key);
	if (!tally) {
		const struct tally empty = {};
		bpf_map_update_elem(&tallies, key, &empty, BPF_NOEXIST);
		tally = bpf_map_lookup_elem(&tallies, key);
		if (!tally) {
			count_loss(report_map_full);
			return;
		}
	}
	__sync_fetch_and_add(&tally->count, count);
	if (amount)
		__sync_fetch_and_add(&tally->amount, amount);
	if (extra)
		__sync_fetch_and_add(&tally->extra, extra);
}
