// SPDX-License-Identifier: GPL-2.0
/* Accesses to ZFS' cache (ARC) by command.
 *
 * OpenZFS has no tracepoints on Linux; its probes are empty functions, called beside the kstat's
 * counters. They get the buffer's header, which says data or metadata; demand or prefetch is known
 * to arc_read alone, which calls the probe in the same thread. A hit that does not come through
 * arc_read comes through arc_buf_access, and is demand.
 *
 * ZFS' types are not in the kernel's BTF, and many builds of the module have none. What is used
 * of them has been the same from 0.8 to 2.4. */
#include "filter.h"
#include "tally.h"

/* enum arc_flags */
#define ARC_FLAG_PREFETCH (1U << 2)
#define ARC_FLAG_BUFC_METADATA (1U << 17)
/* struct arc_buf_hdr */
#define B_FLAGS_OFFSET 40
/* arc_read's eighth argument, from the stack pointer at its entry */
#define ARC_FLAGS_STACK_OFFSET 16

/* Bits of the report's `id`. The other side is src/tools/zfs_arc.rs. */
enum { PREFETCH = 1, METADATA = 2 };

enum outcome { HIT, IOHIT, MISS };

const volatile bool per_command = false;

/* Threads whose arc_read is a prefetch with its outcome still open. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, __u8);
} prefetching SEC(".maps");

/* arc_read(pio, spa, bp, done, private, priority, zio_flags, arc_flags, zb) */
SEC("kprobe")
int read(struct pt_regs *regs)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	__u32 *flags_at = NULL;
	__u32 flags = 0;
	__u8 yes = 1;
	bpf_probe_read_kernel(&flags_at, sizeof(flags_at),
			      (void *)(regs->sp + ARC_FLAGS_STACK_OFFSET));
	bpf_probe_read_kernel(&flags, sizeof(flags), flags_at);
	if (!(flags & ARC_FLAG_PREFETCH))
		bpf_map_delete_elem(&prefetching, &tid);
	else if (bpf_map_update_elem(&prefetching, &tid, &yes, BPF_ANY))
		count_loss(start_map_full);
	return 0;
}

/* arc_buf_access(buf) */
SEC("kprobe")
int buf_access(void)
{
	/* What an arc_read without an outcome left behind. */
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	bpf_map_delete_elem(&prefetching, &tid);
	return 0;
}

static __always_inline int count_access(const struct pt_regs *regs, enum outcome outcome)
{
	struct report_key key = {};
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	__u32 flags = 0;
	/* Deleting tells whether it was there. */
	if (!bpf_map_delete_elem(&prefetching, &tid))
		key.id |= PREFETCH;
	if (!current_wanted())
		return 0;
	bpf_probe_read_kernel(&flags, sizeof(flags), (void *)(regs->di + B_FLAGS_OFFSET));
	if (flags & ARC_FLAG_BUFC_METADATA)
		key.id |= METADATA;
	if (per_command)
		bpf_get_current_comm(key.comm, sizeof(key.comm));
	/* Hits are what remains. */
	add_to_tally(&key, 1, outcome == IOHIT, outcome == MISS);
	return 0;
}

/* trace_zfs_arc__hit(hdr) */
SEC("kprobe")
int hit(struct pt_regs *regs)
{
	return count_access(regs, HIT);
}

/* trace_zfs_arc__iohit(hdr): 2.2 and later */
SEC("kprobe")
int iohit(struct pt_regs *regs)
{
	return count_access(regs, IOHIT);
}

/* trace_zfs_arc__miss(hdr, bp, lsize, zb) */
SEC("kprobe")
int miss(struct pt_regs *regs)
{
	return count_access(regs, MISS);
}

char LICENSE[] SEC("license") = "GPL";
