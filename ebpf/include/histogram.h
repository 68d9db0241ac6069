/* SPDX-License-Identifier: GPL-2.0 */
/* Distributions by key. */
#pragma once
#include "report.h"

/* What a histogram's unit is worth: 1000 for microseconds. */
const volatile __u64 unit_ns = 1000;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct report_key);
	__type(value, struct histogram);
} histograms SEC(".maps");

static const struct histogram empty_histogram;

static __always_inline __u32 log2_floor(__u64 value)
{
	__u32 log = 0;
#pragma unroll
	for (__u32 step = 32; step; step >>= 1) {
		if (value >> step) {
			value >>= step;
			log += step;
		}
	}
	return log;
}

static __always_inline __u32 slot_of(__u64 value)
{
	if (value < SLOTS_PER_OCTAVE)
		return value;
	__u32 log = log2_floor(value);
	__u32 slot = ((log - SLOTS_PER_OCTAVE_LOG2 + 1) << SLOTS_PER_OCTAVE_LOG2) |
		     ((value >> (log - SLOTS_PER_OCTAVE_LOG2)) & (SLOTS_PER_OCTAVE - 1));
	return slot < HISTOGRAM_SLOTS ? slot : HISTOGRAM_SLOTS - 1;
}

static __always_inline void add_to_histogram(struct report_key *key, __u64 duration_ns)
{
	key->epoch = current_epoch();
	struct histogram *histogram = bpf_map_lookup_elem(&histograms, key);
	if (!histogram) {
		bpf_map_update_elem(&histograms, key, &empty_histogram, BPF_NOEXIST);
		histogram = bpf_map_lookup_elem(&histograms, key);
		if (!histogram) {
			count_loss(report_map_full);
			return;
		}
	}
	__u64 value = duration_ns / unit_ns;
	__u32 slot = slot_of(value);
	if (slot < HISTOGRAM_SLOTS)
		__sync_fetch_and_add(&histogram->slots[slot], 1);
	__sync_fetch_and_add(&histogram->sum, value);
	/* Compare-and-swap needs 5.12. Two CPUs may race here; the look after the store leaves a
	 * window of some nanoseconds, and user space never shows a maximum below the top slot. */
	if (value > histogram->max) {
		histogram->max = value;
		if (value > *(volatile __u64 *)&histogram->max)
			histogram->max = value;
	}
}
